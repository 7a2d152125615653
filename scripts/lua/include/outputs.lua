-- What a handler did to other runs, applied in the step that settles it.
--
-- take_outputs(next_run)   the next arguments: how many runs of this partition, and for each what next_run() takes for the run, how
--                          many segments, and each segment as append.lua has it; how many entries for other partitions, and for
--                          each: partition, body (relay.lua's). Returns {here, elsewhere, refusal}: judged, and nothing is written
-- apply_outputs(outputs)   events of runs that are here enter their feeds; the caller writes these runs back
-- put_out(outputs)         those for other partitions enter the outbox, KEYS[8]
-- is_whole(run)            whether an event can be added behind the last one: its hash and feed belong together
-- @include appending

local outbox = KEYS[8]
local NOTHING = { here = {}, elsewhere = {} }

-- The run's events are judged one after the other before anything is written.
-- Returns what is to be applied, and the refusal if there is one.
local function judge_output(run)
  local status, steps, refusal = run.status, {}, nil
  local first_status, first_start = run.status, run.start
  for _ = 1, tonumber(take(1)) do
    local segment = take_segment()
    local again = not refusal and repeated_start(run, segment.type, segment.extras)
    if not refusal and again ~= 'duplicate' then
      refusal = again
      if not refusal then
        refusal, status = judge(run, segment.type, segment.extras, false)
      end
      steps[#steps + 1] = { segment = segment, status = status }
      run.status, run.start = status or run.status, segment.extras.start or run.start
    end
  end
  run.status, run.start = first_status, first_start
  return steps, refusal
end

local function is_whole(run)
  if run.seq == 0 then
    return redis.call('EXISTS', run.feed) == 0
  end
  local last = redis.call('XREVRANGE', run.feed, '+', '-', 'COUNT', 1)[1]
  return last and last[1] == run.tail
end

local function take_outputs(next_run)
  local here, elsewhere = tonumber(take(1)), nil
  if here == 0 then
    elsewhere = tonumber(take(1))
    if elsewhere == 0 then
      return NOTHING
    end
  end
  local outputs, threads = { here = {}, elsewhere = {} }, {}
  for _ = 1, here do
    local run = next_run()
    local steps, refusal = judge_output(run)
    local thread = not refusal and steps[1] and steps[1].segment.extras.thread or ''
    if not refusal and #steps > 0 and not run.first_id and not is_whole(run) then
      refusal = 'corrupt 1'
    elseif thread ~= '' and not run.status then
      refusal = threads[run.thread] and 'busy 1 ' .. threads[run.thread] or refusal
      threads[run.thread] = run.id
    end
    outputs.refusal = outputs.refusal or refusal and refusal .. ' of ' .. run.id
    outputs.here[#outputs.here + 1] = { run = run, steps = steps }
  end
  for _ = 1, elsewhere or tonumber(take(1)) do
    local partition, body = take(2)
    outputs.elsewhere[#outputs.elsewhere + 1] = { partition = partition, body = body }
  end
  return outputs
end

local function apply_outputs(outputs)
  for _, output in ipairs(outputs.here) do
    for _, step in ipairs(output.steps) do
      apply(output.run, step.segment, step.status, 1)
    end
  end
end

local function put_out(outputs)
  for _, other in ipairs(outputs.elsewhere) do
    local field = 'out:' .. other.partition
    local before = redis.call('HGET', meta, field) or '0-0'
    redis.call('HSET', meta, field, redis.call('XADD', outbox, '*', 't', other.partition, 'p', before, 'b', other.body))
  end
end
