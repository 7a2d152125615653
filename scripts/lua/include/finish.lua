-- What the end of a run changes besides its status: it leaves the clocks, frees its thread, and expires.
--
-- finish(run, known, retain_ms, tombstone_ms)
--   run    {id, hash, feed, thread}
--   known  {owner, asks, thread} as the hash has them, false for none
--   the feed goes after retain_ms; the hash (less answers) stays tombstone_ms longer, so that late resends raise no ghost
-- write_ends()          the partition's clocks, once at the end of a call
-- @include partition

local ended, ended_at, disowned = {}, {}, {}

local function finish(run, known, retain_ms, tombstone_ms)
  local keep = retain_ms + tombstone_ms
  ended[#ended + 1] = now
  ended[#ended + 1] = run.id
  ended_at[#ended_at + 1] = now + keep
  ended_at[#ended_at + 1] = run.id
  if known.owner then
    disowned[#disowned + 1] = run.id
  end
  if known.asks then
    for _, field in ipairs(redis.call('HKEYS', run.hash)) do
      if string.sub(field, 1, 2) == 'a:' then
        redis.call('HDEL', run.hash, field)
      end
    end
  end
  redis.call('PEXPIRE', run.feed, retain_ms)
  redis.call('PEXPIRE', run.hash, keep)
  if not known.thread then
    return
  end
  local thread = redis.call('HMGET', run.thread, 'active', 'latest')
  if thread[1] == run.id then
    redis.call('HDEL', run.thread, 'active')
  end
  if thread[2] == run.id then
    redis.call('PEXPIRE', run.thread, keep)
  end
end

local function write_ends()
  if #ended > 0 then
    redis.call('ZADD', index, unpack(ended))
    redis.call('ZADD', deadlines, unpack(ended_at))
  end
  if #disowned > 0 then
    redis.call('ZREM', owners, unpack(disowned))
  end
end
