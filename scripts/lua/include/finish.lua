-- What the end of a run changes besides its status: it leaves the clocks, frees its thread, and expires.
--
-- finish(run, known, retain_ms, tombstone_ms)
--   run    {id, hash, feed, thread}
--   known  {owner, asks, thread} as the hash has them, false for none; the same retain_ms and tombstone_ms in all of a call
--   the feed goes after retain_ms; the hash (less answers) stays tombstone_ms longer, so that late resends raise no ghost
-- write_ends()          the partition's clocks, once at the end of a call
-- @include partition
-- @include feed_id
-- @include portions

local ended, ended_at, disowned = {}, {}, {}
local retain_text, keep_text, gone_text

local function finish(run, known, retain_ms, tombstone_ms)
  if not keep_text then
    local keep = retain_ms + tombstone_ms
    retain_text, keep_text, gone_text = whole(retain_ms), whole(keep), whole(now + keep)
  end
  ended[#ended + 1] = now_text
  ended[#ended + 1] = run.id
  ended_at[#ended_at + 1] = gone_text
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
  redis.call('PEXPIRE', run.feed, retain_text)
  redis.call('PEXPIRE', run.hash, keep_text)
  if not known.thread then
    return
  end
  local thread = redis.call('HMGET', run.thread, 'active', 'latest')
  if thread[1] == run.id then
    redis.call('HDEL', run.thread, 'active')
  end
  if thread[2] == run.id then
    redis.call('PEXPIRE', run.thread, keep_text)
  end
end

local function write_ends()
  in_portions(ended, 1, function(...)
    redis.call('ZADD', index, ...)
  end)
  in_portions(ended_at, 1, function(...)
    redis.call('ZADD', deadlines, ...)
  end)
  in_portions(disowned, 1, function(...)
    redis.call('ZREM', owners, ...)
  end)
end
