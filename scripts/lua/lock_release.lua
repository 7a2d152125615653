-- Give a lock back on one of its servers, if it is still the caller's.
--
-- KEYS[1] lock
-- ARGV[1] token         what the caller wrote when it took the lock, or meant to
-- Returns {"released"} or {"lost"}
-- Flags   allow-oom
-- Holds   nobody's lock but the caller's own is touched; a second call writes nothing

local lock, token = KEYS[1], ARGV[1]

if redis.call('GET', lock) ~= token then
  return { 'lost' }
end
redis.call('DEL', lock)
return { 'released' }
