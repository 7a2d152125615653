-- Read a partition's log for the member of an ordered group that has its lease: what is pending first, whoever had it, then new entries.
--
-- KEYS[1] meta          `g:<group>`: what its members bind, with a version
-- KEYS[2] log           facts and bound increments of the partition's runs
-- KEYS[3] lease         token, last, `t:<entry>`: its tries
-- ARGV[1] group
-- ARGV[2] member        which has the lease
-- ARGV[3] token         by which it has it
-- ARGV[4] after         the entry it was given last; "0-0" for none: everything that is pending comes again
-- ARGV[5] limit         entries at most
-- Returns {"again" (they were delivered before) or "new", version of the bindings, entry settled last under the lease, entry given to the
--   group last, how many pending ones the log lost (they are acknowledged), entry ID, fields, tries, …}, or {"fenced"}, {"hole"} (the
--   group was not given that entry: begin again at "0-0"), {"nogroup"}
-- Flags   allow-oom
-- Holds   nothing new is given before all that is pending behind `after` was, so that an answer that got lost comes again; counts of
--   deliveries stay
-- @include safe_point

local meta, log, lease = KEYS[1], KEYS[2], KEYS[3]
local group, member, token, after, limit = unpack(ARGV, 1, 5)

local function given_last()
  local told = redis.pcall('XINFO', 'GROUPS', log)
  for _, info in ipairs(told.err and {} or told) do
    local known = {}
    for i = 1, #info, 2 do
      known[info[i]] = info[i + 1]
    end
    if known['name'] == group then
      return known['last-delivered-id'], known['pending'] > 0
    end
  end
  return nil
end

local function claim(rows)
  local found, lost, options = {}, 0, {}
  for i, row in ipairs(rows) do
    options[i] = row[1]
  end
  options[#options + 1] = 'JUSTID'
  redis.call('XCLAIM', log, group, member, 0, unpack(options))
  for _, row in ipairs(rows) do
    local entry = redis.call('XRANGE', log, row[1], row[1])[1]
    if entry then
      found[#found + 1] = entry
    else
      redis.call('XACK', log, group, row[1])
      lost = lost + 1
    end
  end
  return found, lost
end

local known = redis.call('HMGET', lease, 'token', 'last')
if known[1] ~= token then
  return { 'fenced' }
end
local given, has_pending = given_last()
if not given then
  return { 'nogroup' }
elseif before(given, after) then
  return { 'hole' }
end
local bound = redis.call('HGET', meta, 'g:' .. group) or ''
local version = string.match(bound, '^%S+ (%S+)') or ''
local rows = has_pending and redis.call('XPENDING', log, group, '(' .. after, '+', limit) or {}
local answer = { #rows > 0 and 'again' or 'new', version, known[2] or '', given, 0 }

local function tell(entry, tries)
  answer[#answer + 1] = entry[1]
  answer[#answer + 1] = entry[2]
  answer[#answer + 1] = tries
end

if #rows > 0 then
  local found, lost = claim(rows)
  answer[5] = lost
  for _, entry in ipairs(found) do
    tell(entry, tonumber(redis.call('HGET', lease, 't:' .. entry[1]) or 0))
  end
  return answer
end
local reply = redis.call('XREADGROUP', 'GROUP', group, member, 'COUNT', limit, 'STREAMS', log, '>')
for _, entry in ipairs(reply and reply[1][2] or {}) do
  tell(entry, 0)
  answer[4] = entry[1]
end
return answer
