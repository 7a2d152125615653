-- Settle reactions of one group: an entry's acknowledgement and what its handler did are one step.
--
-- KEYS[1] meta          layout, bindings; `out:<partition>`: the last outbox entry for it; `w:<group>`: retries that wait
-- KEYS[2] log           facts and bound increments, while there is a group
-- KEYS[3] index         runs by last lifecycle change
-- KEYS[4] owners        runs executed without a worker, by owner_until
-- KEYS[5] deadlines     when `expire` must look at a run
-- KEYS[6] delayed       retries by due time
-- KEYS[7] bodies        their events
-- KEYS[8] outbox        settled events for other partitions
-- KEYS[9] dead          the group's dead letters
-- KEYS[10] lease        of an ordered group: owner, until, token, last, `t:<entry>`, `x:<run>`
-- then for each run that is written to its hash, feed, channel, thread; behind them work:<task> as append.lua has it, in the order of
--   the segments
-- ARGV[1] layout        as the caller knows it
-- ARGV[2] feed_limit    events a run
-- ARGV[3] log_limit     entries
-- ARGV[4] work_limit    entries a task, and delayed starts of the partition
-- ARGV[5] retain_ms     how long a feed stays after the end
-- ARGV[6] tombstone_ms  how much longer the hash stays
-- ARGV[7] silent_ms     after which a run that nobody executes is ended; 0: never
-- ARGV[8] term_ms       of an owner
-- ARGV[9] bindings      how many binding fields follow: `b:<type>` of each type of increment in the call
-- then group, dead_limit, token of the lease ("": a shared group), the entry settled before under it ("": none), the entry that is
--   settled last when all of the call is, how many runs are written to, these runs; then for each unit: verb, how many entries, their IDs, and
--     done           how many runs of this partition it writes to, per run: its place among those (from 1), how many segments, and each
--                    segment as append.lua has it; how many entries for other partitions, per entry: partition, body (relay.lua's)
--     retry          (one entry, a shared group's) delay in ms, tries so far, run, feed ID, payload
--     dead           (one entry) failure (JSON), run, feed ID, payload, "stop" where an ordered group takes no more of the run
-- Returns per unit "settled"; "done" (it was, by this call or by somebody else); "stale" (some of its entries are not pending any more:
--   nothing is applied); "refused <outcome>" (an output may not be appended: nothing is applied); under a lease also "fenced" (another
--   token) and "hole" (the server does not know the entry settled before: nothing of it or behind it is applied). Times are the server's
-- Flags   allow-oom
-- Holds   a call executed again changes nothing: XACK = 1 is the gate; under a lease entries are settled in the order of their calls
-- @include outputs

local dead, lease = KEYS[9], KEYS[10]
local group, dead_limit, token, before_it, final, written = take(6)
local TRIM_EVERY = 1000 -- entries of the log
local runs, touched, acknowledged = {}, {}, 0
key = 11
for i = 1, tonumber(written) do
  runs[i] = load_run(take(1), 'status')
end

local function next_run()
  return runs[tonumber(take(1))]
end

-- Whether all entries of a unit are pending, none, or some.
local function standing_of(entries)
  local pending = 0
  for _, entry in ipairs(entries) do
    local found = redis.pcall('XPENDING', log, group, entry, entry, 1)
    pending = pending + (found.err and 0 or #found) -- a group that was deleted holds nothing
  end
  return pending == #entries and 'all' or pending == 0 and 'none' or 'some'
end

-- The gate: nil if the unit may be applied, else the answer.
local function pass_gate(entries)
  if #entries > 1 then
    local found = standing_of(entries)
    if found ~= 'all' then
      return found == 'none' and 'done' or 'stale'
    end
  end
  local count = redis.call('XACK', log, group, unpack(entries))
  acknowledged = acknowledged + count
  if count == 0 then
    return 'done'
  end
  return nil
end

local verbs = {}

function verbs.done(entries)
  local outputs = take_outputs(next_run)
  return outputs.refusal, function()
    apply_outputs(outputs)
    put_out(outputs)
    for _, output in ipairs(outputs.here) do
      if #output.steps > 0 then
        touched[output.run] = true
      end
    end
  end
end

function verbs.retry(entries)
  local delay, tries, run, id, payload = take(5)
  return nil, function()
    local member = group .. '\n' .. entries[1]
    redis.call('HSET', bodies, member, run .. '\n' .. id .. '\n' .. tries .. '\n' .. payload)
    redis.call('ZADD', delayed, now + delay, member)
    redis.call('HINCRBY', meta, 'w:' .. group, 1)
  end
end

function verbs.dead()
  local failure, run, id, payload, stop = take(5)
  return nil, function()
    redis.call('XADD', dead, 'MAXLEN', '~', dead_limit, '*', 'r', run, 'i', id, 'e', payload, 'f', failure)
    if stop ~= '' then
      redis.call('HSET', lease, 'x:' .. run, now)
    end
  end
end

local newest = 0 -- number of the entry settled last

local function take_unit()
  local verb, count = take(2)
  local entries = { take(tonumber(count)) }
  newest = select(2, split_id(entries[#entries]))
  local refusal, write = verbs[verb](entries)
  return { entries = entries, refusal = refusal and 'refused ' .. refusal, write = write }
end

local function settle(unit)
  local answer = unit.refusal or pass_gate(unit.entries)
  if not answer then
    unit.write()
  end
  return answer or 'settled'
end

-- Under a lease each unit is settled behind the one before it, and none twice.
local last, fence, changes = '', nil, false

local function settle_behind(unit)
  local own = unit.entries[#unit.entries]
  if fence then
    return fence
  elseif last ~= before_it then
    if last == own then
      before_it = own
      return 'done'
    end
    fence = 'hole'
    return fence
  elseif unit.refusal then
    fence = 'hole' -- what stands behind it in this call names it as settled
    return unit.refusal
  end
  local answer = settle(unit)
  if answer ~= 'settled' then
    fence = 'hole'
    return fence
  end
  for _, entry in ipairs(unit.entries) do
    redis.call('HDEL', lease, 't:' .. entry)
  end
  last, before_it, changes = own, own, true
  return answer
end

-- Every unit is judged when it is its turn: an earlier one may end the run that it writes to.
local answers = {}
if token == '' then
  while at <= #ARGV do
    answers[#answers + 1] = settle(take_unit())
  end
else
  local known = redis.call('HMGET', lease, 'token', 'last')
  last = known[2] or ''
  fence = known[1] ~= token and 'fenced' or nil
  local is_again = not fence and last ~= before_it and last == final -- all of it was executed, and the answer was lost
  while at <= #ARGV do
    local unit = take_unit()
    answers[#answers + 1] = is_again and 'done' or settle_behind(unit)
  end
  if changes then
    redis.call('HSET', lease, 'last', last)
  end
end
for run in pairs(touched) do
  keep(run)
  if run.first_id then
    publish_later(run)
  end
end
write_ends()
publish_all()
if acknowledged > 0 and newest % TRIM_EVERY < acknowledged then
  local slowest = positions(log)[1]
  if slowest then
    redis.call('XTRIM', log, 'MINID', '~', slowest.id)
  end
end
return answers
