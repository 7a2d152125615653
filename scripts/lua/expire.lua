-- What time does to runs of a partition: lost owners, cancels nobody heeded, silent log sources, entries that leave the index.
--
-- KEYS[1] meta          seen and quiet
-- KEYS[2] log           facts
-- KEYS[3] index         runs by last lifecycle change
-- KEYS[4] owners        runs executed without a worker, by owner_until
-- KEYS[5] deadlines     when to look at a run
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
-- @include clock
-- @include pass
-- @include emit
-- @include finish

local meta, log, index, owners, deadlines = unpack(KEYS, 1, 5)
local term_ms, retain_ms, tombstone_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local silent_ms, limit = tonumber(ARGV[4]), tonumber(ARGV[5])
local now = clock()
local quiet = pass(meta, owners, now, term_ms)
local owners_may_be_lost = now - quiet >= term_ms

local function keys_of(i)
  local first = 6 + 4 * i
  return {
    meta = meta, log = log, index = index, owners = owners, deadlines = deadlines,
    hash = KEYS[first], feed = KEYS[first + 1], channel = KEYS[first + 2], thread = KEYS[first + 3],
  }
end

local function finish_as(keys, run, status, type, members, error)
  if not emit(keys, run, now, type, members) then
    -- Corrupt: somebody must look at it, and looking at it each second helps nobody.
    redis.call('ZREM', owners, run)
    redis.call('ZREM', deadlines, run)
    return
  end
  redis.call('HSET', keys.hash, 'status', status, 'ended', now)
  if error then
    redis.call('HSET', keys.hash, 'error', error)
  end
  finish(keys, run, now, retain_ms, tombstone_ms)
end

local function lose_owner(keys, run, attempt)
  local error = '"its process stopped renewing"'
  local members = '"attempt":' .. attempt .. ',"data":{"error":' .. error .. ',"reason":"owner_lost"}}'
  finish_as(keys, run, 'failed', 'run.failed', members, error)
end

-- A deadline that has passed: cancel grace, silence, or the end of a tombstone.
local function look(keys, run, known)
  local status, cancel, attempt, owner, exec = known[1], known[3], tonumber(known[4] or 0), known[5], known[6]
  if TERMINAL[status] then
    redis.call('ZREM', index, run)
    redis.call('ZREM', deadlines, run)
  elseif cancel and (owner or not exec) then
    local with_attempt = attempt > 0 and '"attempt":' .. attempt .. ',' or ''
    finish_as(keys, run, 'cancelled', 'run.cancelled', with_attempt .. '"data":{"reason":' .. cancel .. '}}')
  elseif silent_ms > 0 and attempt == 0 and status ~= 'queued' then
    local _, last_ms = split_id(known[2])
    if last_ms + silent_ms <= now then
      local error = '"nothing was heard of it"'
      finish_as(keys, run, 'failed', 'run.failed', '"data":{"error":' .. error .. ',"reason":"silent"}}', error)
    else
      redis.call('ZADD', deadlines, last_ms + silent_ms, run)
    end
  else
    redis.call('ZREM', deadlines, run)
  end
end

local done = 0
for i = 0, #ARGV - 6 do
  local run, keys = ARGV[6 + i], keys_of(i)
  local known = redis.call('HMGET', keys.hash, 'status', 'tail', 'cancel', 'attempt', 'owner', 'exec')
  local owner_until = tonumber(redis.call('ZSCORE', owners, run) or now)
  local deadline = tonumber(redis.call('ZSCORE', deadlines, run) or now + 1)
  if not known[1] then
    redis.call('ZREM', owners, run)
    redis.call('ZREM', deadlines, run)
    redis.call('ZREM', index, run)
    done = done + 1
  elseif owner_until < now and owners_may_be_lost and not TERMINAL[known[1]] then
    lose_owner(keys, run, known[4])
    done = done + 1
  elseif deadline <= now then
    look(keys, run, known)
    done = done + 1
  end
end

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
