-- Cut a partition's log behind its slowest group.
--
-- KEYS[1] log           facts and bound increments of the partition's runs
-- Returns how many entries went
-- Flags   allow-oom
-- Holds   no entry goes that a group has not been given and acknowledged; a second call removes nothing
-- @include safe_point

local log = KEYS[1]
if redis.call('EXISTS', log) == 0 then
  return 0
end
local slowest = positions(log)[1]
if not slowest then
  return 0
end
return redis.call('XTRIM', log, 'MINID', slowest.id)
