-- Ask a run to stop; one that nobody executes right now ends at once.
--
-- KEYS[1] meta          whether the partition has a group
-- KEYS[2] log           facts
-- KEYS[3] index         runs by last lifecycle change
-- KEYS[4] owners        runs executed without a worker
-- KEYS[5] deadlines     when `expire` must look at a run
-- KEYS[6] delayed       runs queued for later
-- KEYS[7] bodies        their work entries
-- KEYS[8] hash          of the run
-- KEYS[9] feed
-- KEYS[10] channel
-- KEYS[11] thread       of the run's root
-- KEYS[12] ctl          where the process that executes the run listens
-- ARGV[1] run
-- ARGV[2] reason        a finished JSON string
-- ARGV[3] grace_ms      after which `expire` ends a run whose function does not stop, where no worker has it
-- ARGV[4] retain_ms     how long a feed stays after the end
-- ARGV[5] tombstone_ms  how much longer the hash stays
-- Returns {"asked", status}, {"ended", status} if it had ended, {"unknown"} or {"corrupt"}. Times are the server's
-- Flags   allow-oom
-- Holds   a second call asks nothing new and writes nothing
-- @include lifecycle
-- @include clock
-- @include emit
-- @include finish

local keys = {
  meta = KEYS[1], log = KEYS[2], index = KEYS[3], owners = KEYS[4], deadlines = KEYS[5],
  hash = KEYS[8], feed = KEYS[9], channel = KEYS[10], thread = KEYS[11],
}
local delayed, bodies, ctl = KEYS[6], KEYS[7], KEYS[12]
local run, reason = ARGV[1], ARGV[2]
local grace_ms, retain_ms, tombstone_ms = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local known = redis.call('HMGET', keys.hash, 'status', 'cancel')
local status = known[1]

if not status then
  return { 'unknown' }
elseif TERMINAL[status] then
  return { 'ended', status }
elseif known[2] then
  return { 'asked', status }
end
local now = clock()
local members = '"data":{"reason":' .. reason .. '}}'
if status == 'running' then
  if not emit(keys, run, now, 'run.cancel_requested', members) then
    return { 'corrupt' }
  end
  redis.call('HSET', keys.hash, 'cancel', reason)
  redis.call('ZADD', keys.deadlines, now + grace_ms, run)
else
  if not emit(keys, run, now, 'run.cancelled', members) then
    return { 'corrupt' }
  end
  status = 'cancelled'
  redis.call('HSET', keys.hash, 'cancel', reason, 'status', status, 'ended', now)
  redis.call('ZREM', delayed, run)
  redis.call('HDEL', bodies, run)
  finish(keys, run, now, retain_ms, tombstone_ms)
end
redis.call('SPUBLISH', ctl, 'cancel ' .. run)
return { 'asked', status }
