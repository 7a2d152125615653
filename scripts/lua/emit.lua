-- Settle reactions of a shared group that did what most do: emit one fact to a run of their partition, or nothing.
--
-- react.lua settles all others, a unit at a time; here many cost little.
-- KEYS[1] meta          `groups` (count), `logged`
-- KEYS[2] log           facts and bound increments, while there is a group
-- KEYS[3] index         runs by last lifecycle change
-- KEYS[4] owners        runs executed without a worker, by owner_until
-- KEYS[5] deadlines     when `expire` must look at a run
-- KEYS[6] delayed       retries by due time
-- KEYS[7] bodies        their events
-- then for each run that is written to its hash, feed, channel
-- ARGV[1] feed_limit    events a run
-- ARGV[2] group
-- ARGV[3] consumer      who has the entries
-- ARGV[4] name_at       where in a hash's key the run's ID begins, from 1
-- ARGV[5] quiet         how many entries without an output follow; then for each run how many events, and for each: entry, payload
-- Returns {"settled"} where nothing but that is to be said; else for each entry with an output "settled", "done" (somebody settled it),
--   or "look": nothing was applied, react.lua decides (the run is new, has ended, or its hash and feed do not belong together)
-- Flags   allow-oom
-- Holds   a call executed again changes nothing: XACK = 1 is the gate
-- @include log
-- @include lifecycle
-- @include safe_point

local feed_limit, group, consumer, name_at = tonumber(ARGV[1]), ARGV[2], ARGV[3], tonumber(ARGV[4])
local TRIM_EVERY = 1000 -- entries of the log
local call, pcall, find, sub = redis.call, redis.pcall, string.find, string.sub
local arguments, keys = ARGV, KEYS
local known = call('HMGET', meta, 'groups', 'logged')
local has_log, logged = tonumber(known[1] or 0) > 0, tonumber(known[2] or 0)
local first_logged, acknowledged, newest = logged, 0, nil
local at, key, last = 6, 8, #ARGV
local answers, count, is_plain = {}, 0, true
local channels, told_ids, told_at, told = {}, {}, {}, 0

for from = at, at + tonumber(ARGV[5]) - 1, 1000 do -- what unpack may put on Lua's stack is limited
  local to = math.min(from + 999, at + tonumber(ARGV[5]) - 1)
  acknowledged = acknowledged + call('XACK', log, group, unpack(arguments, from, to))
  newest = arguments[to]
end
at = at + tonumber(ARGV[5])

-- The count of entries is written once, at the end of the call.
local function log_event(run, id, payload)
  logged = logged + 1
  local added = pcall('XADD', log, log_ms .. '-' .. whole(logged), 'r', run, 'i', id, 'e', payload)
  if type(added) ~= 'string' then
    call('HSET', meta, 'logged', logged - 1)
    to_log('r', run, 'i', id, 'e', payload)
    logged = tonumber(call('HGET', meta, 'logged'))
  end
end

while at <= last do
  local hash, feed, units = keys[key], keys[key + 1], arguments[at] == '1' and 1 or tonumber(arguments[at])
  local run = sub(hash, name_at)
  local state = call('HMGET', hash, 'status', 'tail')
  local tail, seq, ms, first = state[2], nil, nil, nil
  local is_open = state[1] and tail and not TERMINAL[state[1]]
  if is_open then
    local dash = find(tail, '-', 1, true)
    seq, ms = tonumber(sub(tail, 1, dash - 1)), sub(tail, dash + 1)
    ms = (#ms > #now_text or #ms == #now_text and ms > now_text) and ms or now_text
  end
  local from = at + 1
  for i = from, at + 2 * units, 2 do
    local entry, payload = arguments[i], arguments[i + 1]
    local word = 'settled'
    if not is_open then
      word = 'look'
    elseif call('XACK', log, group, entry) == 0 then
      word = 'done'
    else
      local id = whole(seq + 1) .. '-' .. ms
      local added = pcall('XADD', feed, 'NOMKSTREAM', id, 'e', payload)
      if type(added) == 'string' then
        seq, tail, first = seq + 1, id, first or id
        acknowledged, newest = acknowledged + 1, entry
        if has_log then
          log_event(run, id, payload)
        end
      else -- it was the first write of the unit but the acknowledgement, which is taken back where the log was not cut meanwhile
        call('XCLAIM', log, group, consumer, 0, entry, 'FORCE', 'JUSTID')
        word = 'look'
      end
    end
    count = count + 1
    answers[count] = word
    is_plain = is_plain and word == 'settled'
  end
  at = from + 2 * units
  if first then
    call('HSET', hash, 'tail', tail)
    if seq > feed_limit and seq % 64 < units then
      call('XTRIM', feed, 'MAXLEN', '~', feed_limit)
    end
    told = told + 1
    channels[told], told_ids[told], told_at[told] = keys[key + 2], first, { from, at - 1, count - units }
  end
  key = key + 3
end

if logged > first_logged then
  call('HSET', meta, 'logged', logged)
end

-- What was added to a run, as one message.
local function publish(i)
  local from, to, before_it = unpack(told_at[i])
  local payloads = {}
  for n = from, to, 2 do
    if answers[before_it + (n - from) / 2 + 1] == 'settled' then
      payloads[#payloads + 1] = arguments[n + 1]
    end
  end
  call('SPUBLISH', channels[i], told_ids[i] .. '\n' .. table.concat(payloads, '\n'))
end

if told > 0 then
  local followers = call('PUBSUB', 'SHARDNUMSUB', unpack(channels))
  for i = 1, told do
    if followers[2 * i] > 0 then
      publish(i)
    end
  end
end
if newest and select(2, split_id(newest)) % TRIM_EVERY < acknowledged then
  local slowest = positions(log)[1]
  if slowest then
    call('XTRIM', log, 'MINID', '~', slowest.id)
  end
end
return is_plain and { 'settled' } or answers
