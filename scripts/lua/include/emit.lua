-- One event that a script makes itself: feed, hash, log while the partition has a group, channel.
--
-- emit(keys, run, now, type, members)
--   keys      {hash, feed, channel, meta, log}
--   members   the payload behind its type: `"attempt":2,"data":{…}}`
-- Returns the new feed ID, or nil if hash and feed do not belong together (nothing is written then)
-- @include feed_id

local function emit(keys, run, now, type, members)
  local seq, ms = split_id(redis.call('HGET', keys.hash, 'tail'))
  local id = whole(seq + 1) .. '-' .. whole(math.max(now, ms))
  local payload = '"type":"' .. type .. '",' .. members
  local added = redis.pcall('XADD', keys.feed, 'NOMKSTREAM', id, 'e', payload)
  if not added or added.err then
    return nil
  end
  redis.call('HSET', keys.hash, 'tail', id)
  if (tonumber(redis.call('HGET', keys.meta, 'groups') or 0)) > 0 then
    redis.call('XADD', keys.log, '*', 'r', run, 'i', id, 'e', payload)
  end
  redis.call('SPUBLISH', keys.channel, id .. '\n' .. payload)
  return id
end
