-- Cut a partition's log behind its slowest group; one that is over its limit also behind groups that must not keep it so long.
--
-- KEYS[1] meta          `g:<group>`: what becomes of a group that is too far behind
-- KEYS[2] log           facts and bound increments of the partition's runs
-- ARGV[1] log_limit     entries; what handlers emit is never refused, so it is here that their log is bounded
-- Returns how many entries went
-- Flags   allow-oom
-- Holds   no entry goes that a group has not been given and acknowledged, but for a full log, and only from a group bound with
--   `detach`, which is told; a second call removes nothing
-- @include make_room

local meta, log, limit = KEYS[1], KEYS[2], tonumber(ARGV[1])
if redis.call('EXISTS', log) == 0 then
  return 0
end
local slowest = positions(log)[1]
if not slowest then
  return 0
end
local before_it = redis.call('XLEN', log)
redis.call('XTRIM', log, 'MINID', slowest.id)
if redis.call('XLEN', log) > limit then
  make_room(meta, log, limit)
end
return before_it - redis.call('XLEN', log)
