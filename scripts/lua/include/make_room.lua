-- Room in a full log, if there can be any.
--
-- make_room(meta, log, limit)
--   First the log is cut behind its slowest group. Still full: a group bound with `detach` must not stop production, so the
--   oldest tenth goes, which is noted in `cut:<group>` (its last ID) for the group to be told; one with `refuse` stops it.
-- Returns nil if there is room now, else the name of the group that is behind
-- @include safe_point

local function make_room(meta, log, limit)
  local groups = positions(log)
  local refusing
  for _, group in ipairs(groups) do
    local policy = redis.call('HGET', meta, 'g:' .. group.name)
    if policy and string.sub(policy, 1, 6) == 'refuse' then
      refusing = refusing or group
    end
  end
  if groups[1] then
    redis.call('XTRIM', log, 'MINID', groups[1].id)
  end
  if redis.call('XLEN', log) < limit then
    return nil
  end
  if refusing and refusing == groups[1] then
    return refusing.name
  end
  if refusing then
    redis.call('XTRIM', log, 'MINID', refusing.id)
  else
    redis.call('XTRIM', log, 'MAXLEN', limit - math.ceil(limit / 10))
  end
  local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  for _, group in ipairs(groups) do
    if not first or before(group.id, first[1]) then
      redis.call('HSET', meta, 'cut:' .. group.name, first and first[1] or groups[#groups].id)
    end
  end
  if redis.call('XLEN', log) < limit then
    return nil
  end
  return refusing and refusing.name or groups[1].name
end
