-- Bind a group to the log of a partition: the group and its bindings in one step.
--
-- KEYS[1] meta          groups (count), `b:<type>` and `b:*` (bindings of increments, counted), `g:<group>` (what it bound)
-- KEYS[2] log           facts and bound increments of the partition's runs
-- ARGV[1] group
-- ARGV[2] start         `first`: the first entry still in the log; `now`
-- ARGV[3] when_behind   `detach` or `refuse`
-- then the increment types that it binds, `*` for every one
-- Returns {"bound"} for a new group, {"changed"} if its bindings changed, {"same"}
-- Flags   none
-- Holds   a second call with the same arguments writes nothing; a group is counted once

local meta, log = KEYS[1], KEYS[2]
local group, start, when_behind = ARGV[1], ARGV[2], ARGV[3]
local types = { unpack(ARGV, 4) }
table.sort(types)
local binding = when_behind .. ' ' .. table.concat(types, ' ')
local known = redis.call('HGET', meta, 'g:' .. group)

if known == binding then
  return { 'same' }
end
if not known then
  local created = redis.pcall('XGROUP', 'CREATE', log, group, start == 'first' and '0' or '$', 'MKSTREAM')
  if created.err and not string.find(created.err, 'BUSYGROUP', 1, true) then
    return redis.error_reply(created.err)
  end
  redis.call('HINCRBY', meta, 'groups', 1)
else
  for type in string.gmatch(string.match(known, '^%S+ ?(.*)$'), '%S+') do
    if redis.call('HINCRBY', meta, 'b:' .. type, -1) <= 0 then
      redis.call('HDEL', meta, 'b:' .. type)
    end
  end
end
for _, type in ipairs(types) do
  redis.call('HINCRBY', meta, 'b:' .. type, 1)
end
redis.call('HSET', meta, 'g:' .. group, binding)
return { known and 'changed' or 'bound' }
