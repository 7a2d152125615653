-- Push back the expiry of a lock that its holder still has, on one of the lock's servers.
--
-- KEYS[1] lock
-- ARGV[1] token         what the holder wrote when it took the lock
-- ARGV[2] ttl_ms        from now
-- Returns {"extended"}, or {"lost"}: expired, or somebody else's
-- Flags   allow-oom
-- Holds   nobody's lock but the holder's own is touched, and an expired one is not taken again

local lock = KEYS[1]
local token, ttl_ms = ARGV[1], ARGV[2]

if redis.call('GET', lock) ~= token then
  return { 'lost' }
end
redis.call('PEXPIRE', lock, ttl_ms)
return { 'extended' }
