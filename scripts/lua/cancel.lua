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
-- @include event
-- @include finish

local run = { id = ARGV[1], hash = KEYS[8], feed = KEYS[9], channel = KEYS[10], thread = KEYS[11] }
local ctl, reason = KEYS[12], ARGV[2]
local grace_ms, retain_ms, tombstone_ms = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local known = redis.call('HMGET', run.hash, 'status', 'cancel', 'tail', 'owner', 'asks', 'thread')
local status = known[1]

if not status then
  return { 'unknown' }
elseif TERMINAL[status] then
  return { 'ended', status }
elseif known[2] then
  return { 'asked', status }
end
standing(run, known[3])
local type = status == 'running' and 'run.cancel_requested' or 'run.cancelled'
local id = add(run, '"type":"' .. type .. '","data":{"reason":' .. reason .. '}}', has_groups())
if not id then
  return { 'corrupt' }
end
if status == 'running' then
  redis.call('HSET', run.hash, 'tail', id, 'cancel', reason)
  redis.call('ZADD', deadlines, now + grace_ms, run.id)
else
  status = 'cancelled'
  redis.call('HSET', run.hash, 'tail', id, 'cancel', reason, 'status', status, 'ended', now_text)
  redis.call('ZREM', delayed, run.id)
  redis.call('HDEL', bodies, run.id)
  finish(run, { owner = known[4], asks = known[5], thread = known[6] }, retain_ms, tombstone_ms)
  write_ends()
end
publish(run)
redis.call('SPUBLISH', ctl, 'cancel ' .. run.id)
return { 'asked', status }
