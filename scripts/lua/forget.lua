-- Delete consumers of a group that were silent for long and have nothing pending; one that lives is made anew by its next read.
--
-- KEYS[1] log           facts and bound increments of the partition's runs
-- ARGV[1] group
-- ARGV[2] caller        never deleted
-- ARGV[3] silent_ms     by the server's clock
-- Returns their names
-- Flags   none
-- Holds   whoever has something pending stays: nothing pending is lost; a second call writes nothing

local log, group, caller, silent_ms = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local deleted = {}
local infos = redis.pcall('XINFO', 'CONSUMERS', log, group)

for _, info in ipairs(infos.err and {} or infos) do -- none where the log or the group is not there
  local known = {}
  for i = 1, #info, 2 do
    known[info[i]] = info[i + 1]
  end
  if known['name'] ~= caller and known['idle'] >= silent_ms and known['pending'] == 0 then
    redis.call('XGROUP', 'DELCONSUMER', log, group, known['name'])
    deleted[#deleted + 1] = known['name']
  end
end
return deleted
