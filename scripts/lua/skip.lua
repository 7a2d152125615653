-- Acknowledge log entries that no member of a group handles.
--
-- KEYS[1] meta          `g:<group>`: what its members bind, with a version
-- KEYS[2] log           facts and bound increments of the partition's runs
-- ARGV[1] group
-- ARGV[2] version       of the bindings by which the caller judged
-- then entry IDs
-- Returns "skipped", or "changed": the members bind something else by now, nothing is acknowledged
-- Flags   allow-oom
-- Holds   in a rolling deploy nothing is skipped that a newer member handles; a second call writes nothing
-- @include portions

local meta, log, group, version = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local known = redis.call('HGET', meta, 'g:' .. group)
if known and string.match(known, '^%S+ (%S+)') ~= version then
  return 'changed'
end
in_portions(ARGV, 3, function(...)
  redis.call('XACK', log, group, ...)
end)
return 'skipped'
