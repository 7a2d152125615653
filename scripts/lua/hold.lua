-- Push back the visibility of log entries that a group's consumer still holds, and count how often they were begun.
--
-- KEYS[1] log           facts and bound increments of the partition's runs
-- ARGV[1] group
-- ARGV[2] consumer      which holds them
-- ARGV[3] begun         how often, with the time that begins now; 0: nothing begins
-- then entry IDs
-- Returns the entries that it holds no more: settled, or taken over. Times are the server's
-- Flags   allow-oom
-- Holds   an entry that somebody took over is not taken back
-- @include portions

local log, group, consumer, begun = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local lost, kept = {}, {}
for i = 4, #ARGV do
  local found = redis.call('XPENDING', log, group, ARGV[i], ARGV[i], 1, consumer)[1]
  local list = found and kept or lost
  list[#list + 1] = ARGV[i]
end
in_portions(kept, 1, function(...)
  local command = { 'XCLAIM', log, group, consumer, 0, ... }
  if begun ~= '0' then
    command[#command + 1] = 'RETRYCOUNT'
    command[#command + 1] = begun
  end
  command[#command + 1] = 'JUSTID'
  redis.call(unpack(command))
end)
return lost
