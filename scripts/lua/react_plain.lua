-- Settle reactions of a shared group that each add one plain fact to a run of the partition: what most of them do, at a third of the cost.
--
-- KEYS[1] meta          `logged`: number of the last log entry
-- KEYS[2] log           facts and bound increments, while there is a group
-- then for each run its hash, feed, channel
-- ARGV[1] group
-- ARGV[2] consumer      who holds the entries
-- ARGV[3] feed_limit    events a run
-- then for each run: run, how many units, and for each: entry ID, payload of a fact that is no `run.*`
-- Returns {"settled"} if all are; else per unit "settled", "done" (it was, by this call or by somebody else), "general" (nothing is
--   applied: the run is not one that goes on, react decides). Times are the server's
-- Flags   allow-oom
-- Holds   a call executed again changes nothing: XACK = 1 is the gate
-- @include clock
-- @include feed_id
-- @include lifecycle

local call, pcall, find, sub = redis.call, redis.pcall, string.find, string.sub
local meta, log = KEYS[1], KEYS[2]
local group, consumer, feed_limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
local now_text = whole(clock())
local answers, told, settled = {}, {}, 0

-- A number's text costs more than what it is for; two digits of it change.
local DIGITS = ''
for n = 0, 99 do
  DIGITS = DIGITS .. string.format('%02d', n)
end
local high, high_text = 0, ''
local function text_of(n)
  local rest = n % 100
  local above = (n - rest) / 100
  if above == 0 then
    return whole(n)
  elseif above ~= high then
    high, high_text = above, whole(above)
  end
  return high_text .. sub(DIGITS, 2 * rest + 1, 2 * rest + 2)
end

local number = tonumber(call('HGET', meta, 'logged') or 0)
local log_ms = now_text

-- The clock went back, or the count was lost: behind the last entry, as log.lua does it.
local function behind_last_entry()
  local info = call('XINFO', 'STREAM', log)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      local ms, last = split_id(info[i + 1])
      log_ms = ms > tonumber(log_ms) and whole(ms) or log_ms
      number = math.max(number, last + 1)
    end
  end
end

local function to_log(run, id, payload)
  number = number + 1
  local added = pcall('XADD', log, log_ms .. '-' .. text_of(number), 'r', run, 'i', id, 'e', payload)
  if type(added) ~= 'string' then
    behind_last_entry()
    call('XADD', log, log_ms .. '-' .. text_of(number), 'r', run, 'i', id, 'e', payload)
  end
end

-- The feed's last ID as number and ms, nil where the general script has to judge.
local function standing_of(hash)
  local known = call('HMGET', hash, 'status', 'tail')
  local status, tail = known[1], known[2]
  if not status or TERMINAL[status] or not tail then
    return nil
  end
  local dash = find(tail, '-', 1, true)
  local ms = sub(tail, dash + 1)
  return tonumber(sub(tail, 1, dash - 1)), (#ms > #now_text or #ms == #now_text and ms > now_text) and ms or now_text
end

local at = 4
local function settle_run(run, units, hash, feed, channel)
  local seq, ms = standing_of(hash)
  local first, last, payloads = nil, nil, {}
  for _ = 1, units do
    local entry, payload = ARGV[at], ARGV[at + 1]
    at = at + 2
    local answer = 'done'
    if not seq then
      answer = 'general'
    elseif call('XACK', log, group, entry) == 1 then
      local id = text_of(seq + 1) .. '-' .. ms
      local added = pcall('XADD', feed, 'NOMKSTREAM', id, 'e', payload) -- alone it can fail on data
      if type(added) == 'string' then
        to_log(run, id, payload)
        seq, first, last, answer = seq + 1, first or id, id, 'settled'
        payloads[#payloads + 1] = payload
      else -- hash and feed do not belong together: nothing has happened
        call('XCLAIM', log, group, consumer, 0, entry, 'FORCE', 'JUSTID')
        answer = 'general'
      end
    end
    answers[#answers + 1] = answer
  end
  if not first then
    return
  end
  settled = settled + #payloads
  call('HSET', hash, 'tail', last)
  if seq > feed_limit and seq % 64 < #payloads then
    call('XTRIM', feed, 'MAXLEN', '~', feed_limit)
  end
  told[#told + 1] = { channel, first, payloads }
end

local key = 3
while at <= #ARGV do
  local run, units = ARGV[at], tonumber(ARGV[at + 1])
  at = at + 2
  settle_run(run, units, KEYS[key], KEYS[key + 1], KEYS[key + 2])
  key = key + 3
end

if settled > 0 then
  call('HSET', meta, 'logged', whole(number))
  local channels = {}
  for i, one in ipairs(told) do
    channels[i] = one[1]
  end
  local followers = call('PUBSUB', 'SHARDNUMSUB', unpack(channels))
  for i, one in ipairs(told) do
    if followers[2 * i] > 0 then
      call('SPUBLISH', one[1], one[2] .. '\n' .. table.concat(one[3], '\n'))
    end
  end
end
return settled == #answers and { 'settled' } or answers
