-- Cache what was computed, and wake those who wait for it.
--
-- KEYS[1] entry         as cache_take.lua has it; also the name of the channel that they listen to
-- ARGV[1] token
-- ARGV[2] value         passed unread
-- ARGV[3] ttl_ms        from now, more than 0
-- ARGV[4] took_ms       to compute it
-- Returns {"put"}, or {"stale"}: the claim passed to somebody else, or the entry was dropped since
-- Flags   none: refused before its first write when the server is out of memory
-- Holds   only who has the claim puts, once
-- @include clock
-- @include feed_id

local entry = KEYS[1]
local token, value, ttl_ms, took_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]

if redis.call('HGET', entry, 'claim') ~= token then
  return { 'stale' }
end
redis.call('HSET', entry, 'v', value, 'until', whole(clock() + ttl_ms), 'took', took_ms)
redis.call('HDEL', entry, 'claim', 'claim_until')
redis.call('PEXPIRE', entry, whole(ttl_ms))
redis.call('SPUBLISH', entry, 'put')
return { 'put' }
