-- Bind a group to the log of a partition: the group and its bindings of increments in one step.
--
-- KEYS[1] meta          groups (count), `b:<type>` and `b:*` (bindings of increments, counted), `g:<group>` (what it bound)
-- KEYS[2] log           facts and bound increments of the partition's runs
-- ARGV[1] group
-- ARGV[2] start         `first`: the first entry still in the log; `now`
-- ARGV[3] when_behind   `detach` or `refuse`
-- ARGV[4] version       of what the members bound together (group.lua); an older one changes nothing
-- then the increment types that they bound, `*` for every one
-- Returns {"bound"} for a new group, {"changed"} if its bindings changed, {"same"}
-- Flags   allow-oom
-- Holds   a second call with the same arguments writes nothing; a group is counted once

local meta, log = KEYS[1], KEYS[2]
local group, start, when_behind, version = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local types = { unpack(ARGV, 5) }
local known = redis.call('HGET', meta, 'g:' .. group)

-- One that is known and not there went with the server's last second: it begins with what is left.
local from = (known or start == 'first') and '0' or '$'
local created = redis.pcall('XGROUP', 'CREATE', log, group, from, 'MKSTREAM')
if created.err and not string.find(tostring(created.err), 'BUSYGROUP', 1, true) then -- fakeredis: no string
  return redis.error_reply(tostring(created.err))
end

if known then
  local before, bound = string.match(known, '^%S+ (%S+) ?(.*)$')
  if tonumber(before) >= version then
    return { 'same' }
  end
  for type in string.gmatch(bound, '%S+') do
    if redis.call('HINCRBY', meta, 'b:' .. type, -1) <= 0 then
      redis.call('HDEL', meta, 'b:' .. type)
    end
  end
else
  redis.call('HINCRBY', meta, 'groups', 1)
end
for _, type in ipairs(types) do
  redis.call('HINCRBY', meta, 'b:' .. type, 1)
end
redis.call('HSET', meta, 'g:' .. group, when_behind .. ' ' .. ARGV[4] .. ' ' .. table.concat(types, ' '))
return { known and 'changed' or 'bound' }
