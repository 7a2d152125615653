-- Settle executions: a work entry's acknowledgement, its end and its output for other runs are one step.
--
-- KEYS[1] meta          layout, bindings; `out:<partition>`: the last outbox entry for it
-- KEYS[2] log           facts and bound increments, while there is a group
-- KEYS[3] index         runs by last lifecycle change
-- KEYS[4] owners        runs executed without a worker, by owner_until
-- KEYS[5] deadlines     when `expire` must look at a run
-- KEYS[6] delayed       retries by due time
-- KEYS[7] bodies        their work entries
-- KEYS[8] outbox        settled events for other partitions
-- then for each unit: the run's hash, feed, channel, thread, its work stream and dead letters; behind them, as append.lua has them, the
--   keys of each run of this partition that it writes to
-- ARGV[1] layout        as the caller knows it
-- ARGV[2] feed_limit    events a run
-- ARGV[3] log_limit     entries
-- ARGV[4] work_limit    entries a task, and delayed starts of the partition
-- ARGV[5] retain_ms     how long a feed stays after the end
-- ARGV[6] tombstone_ms  how much longer the hash stays
-- ARGV[7] silent_ms     after which a run that nobody executes is ended; 0: never
-- ARGV[8] term_ms       of an owner
-- ARGV[9] bindings      how many binding fields follow: `b:<type>` of each type of increment in the call
-- then dead_limit, and for each unit: run, entry ID ("" without a worker), exec, verb, payload of the event that the verb appends,
--   and four more by verb; then how many runs of this partition it writes to, per run: run, how many segments, and each segment as
--   append.lua has it; then how many entries for other partitions, per entry: partition, body (what relay.lua is given)
--     finish                                              fail      error (JSON), queued ID, queued payload
--     retry, later   delay in ms, queued ID, queued payload    release   "", queued ID, queued payload
--     park           ask, queued ID, queued payload            stop
--     back, defer    (not started; exec: as seen) delay in ms, queued ID, queued payload
-- Returns per unit "settled <status>", "done" (it was, by this very call), "stale", "answered" (park: it waits for that ask no more),
--   "closed <status>" (somebody else ended it: output for other runs is kept), "corrupt" or "refused <outcome>" (an output may not be
--   appended: nothing is applied). Times are the server's
-- Flags   allow-oom
-- Holds   a call executed again changes nothing; whoever does not hold the run's exec changes nothing
-- @include execution
-- @include appending

local outbox = KEYS[8]
key = 9
local dead_limit = take(1)
local UNSTARTED = { back = true, defer = true }
local ENDED_BY = { finish = 'succeeded', fail = 'failed', stop = 'cancelled' }
local LOWERS_TRIES = { later = true, park = true, release = true }

-- The runs of this partition that a unit writes to, judged one after the other before anything is written: nil and what is to be applied,
-- or the refusal.
local function judge_output(run)
  local status, steps, refusal = run.status, {}, nil
  for _ = 1, tonumber(take(1)) do
    local segment = take_segment()
    if not refusal then
      local again = repeated_start(run, segment.type, segment.extras)
      if again ~= 'duplicate' then
        local before
        refusal, before = again, run.status
        if not refusal then
          refusal, status = judge(run, segment.type, segment.extras, false)
        end
        steps[#steps + 1] = { segment = segment, status = status, before = before }
        run.status = status or run.status
      end
    end
  end
  if steps[1] then
    run.status = steps[1].before
  end
  return refusal, steps
end

-- Whether an event can be added behind the last one: its hash and feed belong together.
local function is_whole(run)
  if run.seq == 0 then
    return redis.call('EXISTS', run.feed) == 0
  end
  local last = redis.call('XREVRANGE', run.feed, '+', '-', 'COUNT', 1)[1]
  return last and last[1] == run.tail
end

local function take_outputs()
  local outputs, refusal, threads = { own = {}, others = {} }, nil, {}
  for _ = 1, tonumber(take(1)) do
    local run = load_run(take(1), 'status')
    local refused, steps = judge_output(run)
    local thread = not refused and steps[1] and steps[1].segment.extras.thread or ''
    if not refused and #steps > 0 and not is_whole(run) then
      refused = 'corrupt 1'
    elseif thread ~= '' and not run.status then
      refused = threads[run.thread] and 'busy 1 ' .. threads[run.thread] or refused
      threads[run.thread] = run.id
    end
    refusal = refusal or refused and refused .. ' of ' .. run.id
    outputs.own[#outputs.own + 1] = { run = run, steps = steps }
  end
  for _ = 1, tonumber(take(1)) do
    local partition, body = take(2)
    outputs.others[#outputs.others + 1] = { partition = partition, body = body }
  end
  outputs.refusal = refusal
  return outputs
end

local function write_outputs(outputs)
  for _, output in ipairs(outputs.own) do
    for _, step in ipairs(output.steps) do
      apply(output.run, step.segment, step.status, 1)
    end
    if #output.steps > 0 then
      write_back(output.run)
    end
  end
  for _, other in ipairs(outputs.others) do
    local field = 'out:' .. other.partition
    local before = redis.call('HGET', meta, field) or '0-0'
    redis.call('HSET', meta, field, redis.call('XADD', outbox, '*', 't', other.partition, 'p', before, 'b', other.body))
  end
end

local function load_unit()
  local unit = { work = KEYS[key + 4], dead = KEYS[key + 5] }
  unit.id, unit.entry, unit.exec, unit.verb, unit.payload, unit.a, unit.b, unit.c = take(8)
  local run = { id = unit.id, hash = KEYS[key], feed = KEYS[key + 1], channel = KEYS[key + 2], thread = KEYS[key + 3] }
  key = key + 6
  local h = redis.call('HMGET', run.hash, 'status', 'tail', 'exec', 'settled', 'cancel', 'asks', 'thread')
  run.status, run.exec, run.settled, run.cancel = h[1], h[3] or '', h[4], h[5]
  run.known = { owner = unit.entry == '', asks = h[6], thread = h[7] }
  return standing(run, h[2]), unit
end

local function acknowledge_unit(unit)
  if unit.entry ~= '' then
    acknowledge(unit.work, unit.entry)
  end
end

-- Ends the run with an event; false if that is impossible.
local function finish_as(run, status, payload, ...)
  local id = add(run, payload, has_groups())
  if not id then
    return false
  end
  redis.call('HSET', run.hash, 'tail', id, 'status', status, 'ended', now_text, ...)
  finish(run, run.known, retain_ms, tombstone_ms)
  publish(run)
  return true
end

local function cancel_instead(run, settled)
  local attempt = redis.call('HGET', run.hash, 'attempt')
  attempt = attempt and '"attempt":' .. attempt .. ',' or ''
  local payload = '"type":"run.cancelled",' .. attempt .. '"data":{"reason":' .. (run.cancel or '""') .. '}}'
  return finish_as(run, 'cancelled', payload, 'settled', settled) and 'settled cancelled' or 'corrupt'
end

-- An entry that was taken and not started. Whoever held the run before can settle nothing any more.
local function return_unstarted(run, unit)
  if run.exec ~= unit.exec or redis.call('XACK', unit.work, GROUP, unit.entry) ~= 1 then
    return 'stale'
  end
  redis.call('XDEL', unit.work, unit.entry)
  if not run.status or TERMINAL[run.status] then
    return 'closed ' .. (run.status or 'unknown')
  elseif run.cancel then
    return cancel_instead(run, '')
  end
  redis.call('HSET', run.hash, 'status', 'queued', 'exec', '')
  if unit.verb == 'defer' then
    redis.call('HSET', run.hash, 'due', now + unit.a)
    put_off(run, { unit.b, unit.c }, tonumber(unit.a))
  else
    give_back(run, unit.work, { unit.b, unit.c })
  end
  touch(run)
  return 'settled queued'
end

-- The execution is over and the run is not: it waits for its next attempt, or for an answer.
local function put_back(run, unit, settled)
  local verb, body, changes = unit.verb, { unit.b, unit.c }, {}
  if unit.payload ~= '' then
    local id = add(run, unit.payload, has_groups())
    if not id then
      return 'corrupt'
    end
    changes = { 'tail', id }
  end
  local tries = LOWERS_TRIES[verb] and tonumber(redis.call('HGET', run.hash, 'tries') or 0) or 0
  if tries > 0 then
    changes[#changes + 1] = 'tries'
    changes[#changes + 1] = tries - 1
  end
  if verb == 'retry' or verb == 'later' then
    changes[#changes + 1] = 'due'
    changes[#changes + 1] = now + unit.a
    put_off(run, body, tonumber(unit.a))
  elseif verb == 'park' then
    put_off(run, body)
  else
    give_back(run, unit.work, body)
  end
  local status = verb == 'park' and 'waiting' or 'queued'
  redis.call('HSET', run.hash, 'status', status, 'exec', '', 'settled', settled, unpack(changes))
  touch(run)
  if run.first_id then
    publish(run)
  end
  return 'settled ' .. status
end

local function end_run(run, unit, settled)
  if unit.verb == 'stop' then
    return cancel_instead(run, settled)
  end
  local done
  if unit.verb == 'fail' then
    done = finish_as(run, 'failed', unit.payload, 'settled', settled, 'error', unit.a)
    if done and unit.entry ~= '' then
      bury(run, unit.dead, { unit.b, unit.c }, unit.payload, dead_limit)
    end
  else
    done = finish_as(run, 'succeeded', unit.payload, 'settled', settled)
  end
  return done and 'settled ' .. ENDED_BY[unit.verb] or 'corrupt'
end

local function settle(run, unit, outputs)
  if UNSTARTED[unit.verb] then
    return return_unstarted(run, unit)
  end
  local settled = unit.exec .. ' ' .. unit.verb
  if run.settled == settled then
    return 'done'
  elseif run.exec ~= unit.exec then
    return 'stale'
  elseif TERMINAL[run.status] then
    if unit.verb == 'finish' and not outputs.refusal then
      write_outputs(outputs)
    end
    acknowledge_unit(unit)
    redis.call('HSET', run.hash, 'settled', settled)
    return 'closed ' .. run.status
  elseif unit.verb == 'park' and (run.status ~= 'waiting' or redis.call('HGET', run.hash, 'ask') ~= unit.a) then
    return 'answered'
  elseif outputs.refusal then
    return 'refused ' .. outputs.refusal
  end
  local answer
  if ENDED_BY[unit.verb] then
    answer = end_run(run, unit, settled)
    if answer ~= 'corrupt' then
      write_outputs(outputs)
    end
  elseif run.cancel then
    answer = cancel_instead(run, settled)
  else
    answer = put_back(run, unit, settled)
  end
  if answer ~= 'corrupt' then -- else whoever starts it next sets it aside
    acknowledge_unit(unit)
  end
  return answer
end

local answers = {}
while at <= #ARGV do
  local run, unit = load_unit()
  ending = ENDED_BY[unit.verb] and unit.id
  answers[#answers + 1] = settle(run, unit, take_outputs())
end
write_entries()
write_ends()
return answers
