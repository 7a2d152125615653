-- A group's retries that wait in `delayed`, dropped.
--
-- drop_retries(meta, delayed, bodies, group)   Returns how many. Walks all of `delayed`, but only where the group has any there

local function drop_retries(meta, delayed, bodies, group)
  local waiting = tonumber(redis.call('HGET', meta, 'w:' .. group) or 0)
  if waiting <= 0 then
    return 0
  end
  local head, own = group .. '\n', {}
  local PAGE = 1000
  for first = 0, redis.call('ZCARD', delayed) - 1, PAGE do
    for _, member in ipairs(redis.call('ZRANGE', delayed, first, first + PAGE - 1)) do
      if string.sub(member, 1, #head) == head then
        own[#own + 1] = member
      end
    end
  end
  for first = 1, #own, PAGE do
    local last = math.min(first + PAGE - 1, #own)
    redis.call('ZREM', delayed, unpack(own, first, last))
    redis.call('HDEL', bodies, unpack(own, first, last))
  end
  redis.call('HDEL', meta, 'w:' .. group)
  return #own
end
