-- What time does to runs of a partition: lost owners, cancels nobody heeded, silent log sources, entries that leave the index.
--
-- KEYS[1] meta          seen and quiet
-- KEYS[2] log           facts
-- KEYS[3] index         runs by last lifecycle change
-- KEYS[4] owners        runs executed without a worker, by owner_until
-- KEYS[5] deadlines     when to look at a run
-- KEYS[6] delayed       runs queued for later
-- KEYS[7] bodies        their work entries
-- then for each run to look at: hash, feed, channel, thread
-- ARGV[1] term_ms       of an owner
-- ARGV[2] retain_ms     how long a feed stays after the end
-- ARGV[3] tombstone_ms  how much longer the hash stays
-- ARGV[4] silent_ms     after which a run that nobody executes is ended; 0: never
-- ARGV[5] limit         how many runs to name
-- then the runs to look at, as an earlier call named them
-- Returns {how many ended, removed or put off, run that is due…}: the caller passes the named ones with their keys. Times are the server's
-- Flags   allow-oom
-- Holds   it counts as a pass; an owner is lost only if its owner_until has passed and nothing was silent for a whole term
-- @include lifecycle
-- @include pass
-- @include event
-- @include finish

local term_ms, retain_ms, tombstone_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local silent_ms, limit = tonumber(ARGV[4]), tonumber(ARGV[5])
local quiet = pass(meta, owners, now, term_ms)
local owners_may_be_lost = now - quiet >= term_ms

local function load_run(i, id)
  local first = 8 + 4 * i
  local run = { id = id, hash = KEYS[first], feed = KEYS[first + 1], channel = KEYS[first + 2], thread = KEYS[first + 3] }
  local known = redis.call('HMGET', run.hash, 'status', 'tail', 'cancel', 'attempt', 'owner', 'exec', 'asks', 'thread')
  run.status, run.cancel, run.attempt, run.exec = known[1], known[3], tonumber(known[4] or 0), known[6]
  run.known = { owner = known[5], asks = known[7], thread = known[8] }
  return run.status and standing(run, known[2]) or run
end

local function finish_as(run, status, type, members, error)
  local attempt = run.attempt > 0 and '"attempt":' .. run.attempt .. ',' or ''
  local id = add(run, '"type":"' .. type .. '",' .. attempt .. '"data":{' .. members .. '}}', has_groups())
  if not id then
    -- Corrupt: somebody must look at it, and looking at it each second helps nobody.
    redis.call('ZREM', owners, run.id)
    redis.call('ZREM', deadlines, run.id)
    return
  end
  redis.call('HSET', run.hash, 'tail', id, 'status', status, 'ended', now_text)
  if error then
    redis.call('HSET', run.hash, 'error', error)
  end
  finish(run, run.known, retain_ms, tombstone_ms)
  publish(run)
end

local function lose_owner(run)
  local error = '"its process stopped renewing"'
  finish_as(run, 'failed', 'run.failed', '"error":' .. error .. ',"reason":"owner_lost"', error)
end

-- A deadline that has passed: cancel grace, silence, or the end of a tombstone.
local function look(run)
  if TERMINAL[run.status] then
    redis.call('ZREM', index, run.id)
    redis.call('ZREM', deadlines, run.id)
  elseif run.cancel and (run.known.owner or (run.exec or '') == '') then
    finish_as(run, 'cancelled', 'run.cancelled', '"reason":' .. run.cancel)
  elseif silent_ms > 0 and run.attempt == 0 and run.status ~= 'queued' then
    local _, last_ms = split_id(run.tail)
    if last_ms + silent_ms <= now then
      local error = '"nothing was heard of it"'
      finish_as(run, 'failed', 'run.failed', '"error":' .. error .. ',"reason":"silent"', error)
    else
      redis.call('ZADD', deadlines, last_ms + silent_ms, run.id)
    end
  else
    redis.call('ZREM', deadlines, run.id)
  end
end

local done = 0
for i = 0, #ARGV - 6 do
  local run = load_run(i, ARGV[6 + i])
  local owner_until = tonumber(redis.call('ZSCORE', owners, run.id) or now)
  local deadline = tonumber(redis.call('ZSCORE', deadlines, run.id) or now + 1)
  if not run.status then
    redis.call('ZREM', owners, run.id)
    redis.call('ZREM', deadlines, run.id)
    redis.call('ZREM', index, run.id)
    done = done + 1
  elseif owner_until < now and owners_may_be_lost and not TERMINAL[run.status] then
    lose_owner(run)
    done = done + 1
  elseif deadline <= now then
    look(run)
    done = done + 1
  end
end
write_ends()

local due = { done }
if owners_may_be_lost then
  for _, run in ipairs(redis.call('ZRANGEBYSCORE', owners, '-inf', '(' .. now, 'LIMIT', 0, limit)) do
    due[#due + 1] = run
  end
end
for _, run in ipairs(redis.call('ZRANGEBYSCORE', deadlines, '-inf', now, 'LIMIT', 0, limit)) do
  due[#due + 1] = run
end
return due
