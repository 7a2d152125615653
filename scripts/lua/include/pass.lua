-- One look over the owners of a partition, made by every `renew` and `expire`.
--
-- pass(meta, owners, now, term_ms)
--   After a silence of more than a third of a term (or with `seen` ahead of the clock) nobody is to blame for not having
--   renewed: `quiet` is set to now, and no owner_until stays further ahead than one term (the clock may have jumped back).
-- Returns the time of the last silence

local function pass(meta, owners, now, term_ms)
  local known = redis.call('HMGET', meta, 'seen', 'quiet')
  local seen, quiet = tonumber(known[1] or -1), tonumber(known[2] or now)
  if seen < 0 or now - seen > term_ms / 3 or seen > now then
    quiet = now
    for _, run in ipairs(redis.call('ZRANGEBYSCORE', owners, '(' .. now + term_ms, '+inf')) do
      redis.call('ZADD', owners, now + term_ms, run)
    end
  end
  redis.call('HSET', meta, 'seen', now, 'quiet', quiet)
  return quiet
end
