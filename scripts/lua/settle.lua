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
-- then for each task: its work stream and its dead letters; behind them for each of its units the run's hash, feed, channel, thread, and
--   behind those, as append.lua has them, the keys of each run of this partition that it writes to
-- ARGV[1] layout        as the caller knows it
-- ARGV[2] feed_limit    events a run
-- ARGV[3] log_limit     entries
-- ARGV[4] work_limit    entries a task, and delayed starts of the partition
-- ARGV[5] retain_ms     how long a feed stays after the end
-- ARGV[6] tombstone_ms  how much longer the hash stays
-- ARGV[7] silent_ms     after which a run that nobody executes is ended; 0: never
-- ARGV[8] term_ms       of an owner
-- ARGV[9] bindings      how many binding fields follow: `b:<type>` of each type of increment in the call
-- then dead_limit, and for each task: how many units; for each unit: run, entry ID ("" without a worker), exec, verb,
--   number of its last live event that was acknowledged (0: none), and
--     finish         payload of run.finished, how many runs of this partition it writes to, per run: run, how many segments, and each
--                    segment as append.lua has it; how many entries for other partitions, per entry: partition, body (relay.lua's)
--     fail           payload of run.failed, error (JSON), queued ID, queued payload
--     retry, later   payload of run.retrying, delay in ms, queued ID, queued payload
--     release        payload of run.retrying, queued ID, queued payload
--     park           ask, queued ID, queued payload
--     back           (not started; exec: as seen) queued ID, queued payload
--     defer          (the same) delay in ms, queued ID, queued payload
--     stop
-- Returns per unit "settled <status>", "done" (it was, by this very call), "stale", "answered" (park: it waits for that ask no more),
--   "closed <status>" (somebody else ended it: output for other runs is kept), "corrupt" or "behind" (the server has lost live events that it acknowledged: they come
--   again first; nothing is applied), "refused <outcome>" (an output may not be
--   appended: nothing is applied). Times are the server's
-- Flags   allow-oom
-- Holds   a call executed again changes nothing; whoever does not hold the run's exec changes nothing
-- @include execution
-- @include outputs

key = 9
local dead_limit = take(1)
local ENDED_BY = { finish = 'succeeded', fail = 'failed', stop = 'cancelled' }

local function loaded_run()
  return (load_run(take(1), 'status'))
end

local function write_outputs(outputs)
  if #outputs.here > 0 then -- it may be for a run that another unit put back: its messages keep their order
    publish_all()
  end
  apply_outputs(outputs)
  for _, output in ipairs(outputs.here) do
    if #output.steps > 0 then
      write_back(output.run)
    end
  end
  put_out(outputs)
end

-- Ends the run with an event; false if that is impossible.
local function finish_as(run, status, payload, settled, ...)
  local id = add(run, payload, has_groups())
  if not id then
    return false
  end
  redis.call('HSET', run.hash, 'tail', id, 'status', status, 'ended', now_text, 'exec', '', 'settled', settled, ...)
  finish(run, { owner = run.entry == '', asks = run.asks, thread = run.in_thread }, retain_ms, tombstone_ms)
  publish_later(run)
  return true
end

local function cancel_instead(run, settled)
  local attempt = redis.call('HGET', run.hash, 'attempt')
  attempt = attempt and '"attempt":' .. attempt .. ',' or ''
  local payload = '"type":"run.cancelled",' .. attempt .. '"data":{"reason":' .. (run.cancel or '""') .. '}}'
  return finish_as(run, 'cancelled', payload, settled) and 'settled cancelled' or 'corrupt'
end

-- The execution is over and the run is not: it waits for its next attempt, or for an answer.
local function put_back(run, settled, payload, ...)
  if run.cancel then
    return cancel_instead(run, settled)
  end
  if payload then
    if not add(run, payload, has_groups()) then
      return 'corrupt'
    end
    publish_later(run)
  end
  redis.call('HSET', run.hash, 'exec', '', 'settled', settled, 'tail', run.tail, ...)
  touch(run)
  return nil
end

-- Tries count failures and lost owners: an execution that was stopped without a fault of its own was none.
local function tries_without(run)
  local tries = tonumber(redis.call('HGET', run.hash, 'tries') or 0)
  return math.max(0, tries - 1)
end

-- An entry that was taken and not started. Whoever held the run before can settle nothing any more.
local function return_unstarted(run, work)
  if run.exec ~= run.exec_named then
    return 'stale'
  elseif run.cancel and not TERMINAL[run.status] and not is_whole(run) then
    return 'corrupt'
  elseif redis.call('XACK', work, GROUP, run.entry) ~= 1 then
    return 'stale'
  end
  redis.call('XDEL', work, run.entry)
  if not run.status or TERMINAL[run.status] then
    return 'closed ' .. (run.status or 'unknown')
  elseif run.cancel then
    return cancel_instead(run, run.settled or '')
  end
  redis.call('HSET', run.hash, 'status', 'queued', 'exec', '')
  touch(run)
  return nil
end

-- What each verb does once the fence has let it pass: its arguments are taken, whatever comes of it.
local verbs = {}

function verbs.finish(run, settled)
  local payload, outputs = take(1), take_outputs(loaded_run)
  if run.fenced then
    if run.fenced == 'closed' and not outputs.refusal then -- its output for other runs is kept
      write_outputs(outputs)
    end
    return nil
  elseif outputs.refusal then
    return 'refused ' .. outputs.refusal
  elseif not finish_as(run, 'succeeded', payload, settled) then
    return 'corrupt'
  end
  write_outputs(outputs)
  return 'settled succeeded'
end

function verbs.fail(run, settled, _, dead)
  local payload, error, queued, body = take(4)
  if run.fenced then
    return nil
  elseif not finish_as(run, 'failed', payload, settled, 'error', error) then
    return 'corrupt'
  elseif run.entry ~= '' then
    bury(run, dead, { queued, body }, payload, dead_limit)
  end
  return 'settled failed'
end

function verbs.stop(run, settled)
  return not run.fenced and cancel_instead(run, settled) or nil
end

local function wait_for_time(run, settled, tries)
  local payload, delay, queued, body = take(4)
  if run.fenced then
    return nil
  end
  local refused = put_back(run, settled, payload, 'status', 'queued', 'due', whole(now + delay), unpack(tries and { 'tries', tries(run) } or {}))
  if not refused then
    put_off(run, { queued, body }, tonumber(delay))
  end
  return refused or 'settled queued'
end

function verbs.retry(run, settled)
  return wait_for_time(run, settled)
end

function verbs.later(run, settled)
  return wait_for_time(run, settled, tries_without)
end

function verbs.release(run, settled, work)
  local payload, queued, body = take(3)
  if run.fenced then
    return nil
  end
  local refused = put_back(run, settled, payload, 'status', 'queued', 'tries', tries_without(run))
  if not refused then
    give_back(run, work, { queued, body })
  end
  return refused or 'settled queued'
end

function verbs.park(run, settled)
  local ask, queued, body = take(3)
  if run.fenced then
    return nil
  elseif run.status ~= 'waiting' or redis.call('HGET', run.hash, 'ask') ~= ask then
    return 'answered'
  end
  local refused = put_back(run, settled, nil, 'tries', tries_without(run))
  if not refused then
    put_off(run, { queued, body })
  end
  return refused or 'settled waiting'
end

function verbs.back(run, _, work)
  local queued, body = take(2)
  local refused = return_unstarted(run, work)
  if not refused then
    give_back(run, work, { queued, body })
  end
  return refused or 'settled queued'
end

function verbs.defer(run, _, work)
  local delay, queued, body = take(3)
  local refused = return_unstarted(run, work)
  if not refused then
    redis.call('HSET', run.hash, 'due', whole(now + delay))
    put_off(run, { queued, body }, tonumber(delay))
  end
  return refused or 'settled queued'
end

-- A corrupt run's entry stays: whoever starts it next sets it aside. `done`: the call before may have failed behind this unit.
local OVER = { settled = true, ['closed '] = true, done = true }

-- Whether live events are missing that the server had acknowledged before it lost its last second.
local function is_behind(run, live)
  if live == '0' then
    return false
  end
  local position = redis.call('HGET', run.hash, 'exec_pos')
  return not position or tonumber(string.match(position, '^%d+')) < tonumber(live)
end

local function settle(work, dead)
  local id, entry, exec, verb, live = take(5)
  local hash = KEYS[key]
  local h = redis.call('HMGET', hash, 'status', 'exec', 'tail', 'cancel', 'asks', 'thread', 'settled')
  local run = { -- every field at once: a table that grows is laid out anew
    id = id, entry = entry, exec_named = exec, hash = hash, feed = KEYS[key + 1], channel = KEYS[key + 2], thread = KEYS[key + 3],
    status = h[1], exec = h[2] or '', cancel = h[4], asks = h[5], in_thread = h[6], settled = h[7],
    seq = 0, ms = 0, ms_text = '', tail = '', first_id = false, published = false,
  }
  key = key + 4
  standing(run, h[3])
  if verb == 'back' or verb == 'defer' then
    return verbs[verb](run, nil, work)
  end
  local settled = exec .. ' ' .. verb
  if run.settled == settled then
    run.fenced = 'done'
  elseif run.exec ~= exec then
    run.fenced = 'stale'
  elseif TERMINAL[run.status] then
    run.fenced = 'closed'
    redis.call('HSET', run.hash, 'exec', '', 'settled', settled)
  elseif is_behind(run, live) then
    run.fenced = 'behind'
  end
  ending = ENDED_BY[verb] and id
  local answer = verbs[verb](run, settled, work, dead) or run.fenced
  if answer == 'closed' then
    answer = 'closed ' .. run.status
  end
  if entry ~= '' and OVER[string.sub(answer, 1, 7)] then
    acknowledge(work, entry)
  end
  return answer
end

local answers = {}
while at <= #ARGV do
  local work, dead, count = KEYS[key], KEYS[key + 1], tonumber(take(1))
  key = key + 2
  for _ = 1, count do
    answers[#answers + 1] = settle(work, dead)
  end
end
write_entries()
write_ends()
publish_all()
return answers
