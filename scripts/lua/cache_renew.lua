-- Prolong the claim of a computation that goes on.
--
-- KEYS[1] entry         as cache_take.lua has it
-- ARGV[1] token
-- ARGV[2] term_ms       from now
-- Returns {"renewed"} or {"lost"}
-- Flags   none: a claim that a full server does not prolong ends, and whatever was computed is not cached
-- Holds   only who has the claim prolongs it
-- @include clock
-- @include feed_id

local entry, token, term_ms = KEYS[1], ARGV[1], tonumber(ARGV[2])

local claim, ends = unpack(redis.call('HMGET', entry, 'claim', 'until'))
if claim ~= token then
  return { 'lost' }
end
local now = clock()
redis.call('HSET', entry, 'claim_until', whole(now + term_ms))
redis.call('PEXPIRE', entry, whole(math.max(tonumber(ends or 0) - now, 2 * term_ms)))
return { 'renewed' }
