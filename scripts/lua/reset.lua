-- Let a group go on at another place of a partition's log, as if it had handled all that stands before it and nothing behind it.
--
-- KEYS[1] meta          `cut:<group>`, `w:<group>`; `reset:<group>`: up to which entry the log has retries that were dropped
-- KEYS[2] log           facts and bound increments of the partition's runs, IDs `<ms>-<number>`
-- KEYS[3] delayed       retries by due time
-- KEYS[4] bodies        their events
-- KEYS[5] lease         of an ordered group; absent for a shared one
-- ARGV[1] group
-- ARGV[2] to            the entry that it is given next: `start` (the first still there), `end` (the next to come), or an entry ID
--                       (the first one from there)
-- ARGV[3] nonce         of the lease's new token: who has the lease is fenced
-- Returns {"reset", what it has been given last now, first entry still there or "", how many were pending, how many retries waited} or
--   {"unbound"}
-- Flags   none
-- Holds   nothing is pending or waits behind it: a handler that began before settles nothing any more
-- @include feed_id
-- @include drop_retries

local meta, log, delayed, bodies, lease = unpack(KEYS, 1, 5)
local group, to, nonce = ARGV[1], ARGV[2], ARGV[3]
local PAGE = 1000

local function stream_info()
  local info = {}
  local told = redis.pcall('XINFO', 'STREAM', log)
  for i = 1, told.err and 0 or #told, 2 do
    info[told[i]] = told[i + 1]
  end
  return info
end

local function has_group()
  local groups = redis.pcall('XINFO', 'GROUPS', log)
  for _, info in ipairs(groups.err and {} or groups) do
    for i = 1, #info, 2 do
      if info[i] == 'name' and info[i + 1] == group then
        return true
      end
    end
  end
  return false
end

-- The ID behind which the group goes on. Between it and the entry lies no other one, and its number is one below the entry's.
local function place(newest)
  if to ~= 'end' then
    local entry = redis.call('XRANGE', log, to == 'start' and '-' or to, '+', 'COUNT', 1)[1]
    if entry then
      local ms, number = split_id(entry[1])
      if number > 0 then
        return whole(ms) .. '-' .. whole(number - 1)
      end
      local before = redis.call('XREVRANGE', log, '(' .. entry[1], '-', 'COUNT', 1)[1]
      return before and before[1] or '0-0'
    end
  end
  return newest
end

local function acknowledge_all()
  local count = 0
  while true do
    local ids = {}
    for _, row in ipairs(redis.call('XPENDING', log, group, '-', '+', PAGE)) do
      ids[#ids + 1] = row[1]
    end
    if #ids == 0 then
      return count
    end
    count = count + redis.call('XACK', log, group, unpack(ids))
  end
end

local function fence()
  local fields = redis.call('HGETALL', lease)
  local token, given_up = '0', { 'owner', 'until', 'last', 'lost' }
  for i = 1, #fields, 2 do
    local field = fields[i]
    if field == 'token' then
      token = fields[i + 1]
    elseif string.find(field, '^[tx]:') then
      given_up[#given_up + 1] = field
    end
  end
  for first = 1, #given_up, PAGE do
    redis.call('HDEL', lease, unpack(given_up, first, math.min(first + PAGE - 1, #given_up)))
  end
  redis.call('HSET', lease, 'token', whole(split_id(token .. '-0') + 1) .. '-' .. nonce)
end

if not has_group() then
  return { 'unbound' }
end
local newest = stream_info()['last-generated-id']
local given = place(newest)
local acknowledged = acknowledge_all()
local dropped = drop_retries(meta, delayed, bodies, group)
redis.call('XGROUP', 'SETID', log, group, given)
redis.call('HDEL', meta, 'cut:' .. group)
-- Retries and letters that were given back are in the log besides their events: those would be handled twice.
redis.call('HSET', meta, 'reset:' .. group, newest)
if redis.call('EXISTS', lease) == 1 then
  fence()
end
local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
return { 'reset', given, first and first[1] or '', acknowledged, dropped }
