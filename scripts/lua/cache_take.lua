-- Read what is cached, or claim its computation.
--
-- KEYS[1] entry         hash: v value, until, took; claim, claim_until. Times in ms, the server's
-- ARGV[1] token         random, of this call
-- ARGV[2] term_ms       how long the claim lasts unless it is renewed
-- ARGV[3] stretch       a value counts as due so many times earlier as its computation took; 0 or more, drawn by the caller
-- Returns {"hit", value, ms left}; {"mine"} or, with a value that is still good, {"mine", value, ms left}: the caller computes;
--   {"wait", ms left of the claim}: somebody else does
-- Flags   none: refused before its write when the server is out of memory, and then nothing is cached
-- Holds   one claim at a time; the same token again is answered "mine"; who finds a good value never waits.
--   A claim that ends too late for its term was made before the clock went back: it is over
-- @include clock
-- @include feed_id

local entry = KEYS[1]
local token, term_ms, stretch = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local now = clock()
local value, ends, took, claim, claim_ends =
  unpack(redis.call('HMGET', entry, 'v', 'until', 'took', 'claim', 'claim_until'))
ends, took, claim_ends = tonumber(ends or 0), tonumber(took or 0), tonumber(claim_ends or 0)
local good = value and now < ends
local left = good and ends - now or 0
if good and claim ~= token and left > took * stretch then
  return { 'hit', value, left }
end
if claim and claim ~= token and now < claim_ends and claim_ends <= now + 10 * term_ms then
  if good then
    return { 'hit', value, left }
  end
  return { 'wait', claim_ends - now }
end
if value and not good then
  redis.call('HDEL', entry, 'v', 'until', 'took')
end
redis.call('HSET', entry, 'claim', token, 'claim_until', whole(now + term_ms))
redis.call('PEXPIRE', entry, whole(math.max(left, 2 * term_ms)))
if good then
  return { 'mine', value, left }
end
return { 'mine' }
