-- What the end of a run changes besides its status: it leaves the clocks, frees its thread, and expires.
--
-- finish(keys, run, now, retain_ms, tombstone_ms)
--   keys   {hash, feed, thread, index, owners, deadlines}
--   the feed goes after retain_ms; the hash (less answers) stays tombstone_ms longer, so that late resends raise no ghost

local function finish(keys, run, now, retain_ms, tombstone_ms)
  local keep = retain_ms + tombstone_ms
  redis.call('ZREM', keys.owners, run)
  redis.call('ZADD', keys.deadlines, now + keep, run)
  redis.call('ZADD', keys.index, now, run)
  if redis.call('HGET', keys.hash, 'asks') then
    for _, field in ipairs(redis.call('HKEYS', keys.hash)) do
      if string.sub(field, 1, 2) == 'a:' then
        redis.call('HDEL', keys.hash, field)
      end
    end
  end
  redis.call('PEXPIRE', keys.feed, retain_ms)
  redis.call('PEXPIRE', keys.hash, keep)
  local thread = redis.call('HMGET', keys.thread, 'active', 'latest')
  if thread[1] == run then
    redis.call('HDEL', keys.thread, 'active')
  end
  if thread[2] == run then
    redis.call('PEXPIRE', keys.thread, keep)
  end
end
