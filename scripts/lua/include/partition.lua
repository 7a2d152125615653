-- What scripts that append have in common: the partition's keys, which stand first in KEYS, and the time of the call.
--
-- KEYS[1..7]            meta, log, index, owners, deadlines, delayed, bodies
-- now, now_text         in whole ms; the text is made once, since each conversion costs as much as a command
-- has_groups()          whether a group reads the log; asked once a call
-- @include clock

local meta, log, index, owners, deadlines, delayed, bodies = unpack(KEYS, 1, 7)
local now = clock()
local now_text = string.format('%.0f', now)
local groups_known

local function has_groups()
  if groups_known == nil then
    groups_known = tonumber(redis.call('HGET', meta, 'groups') or 0) > 0
  end
  return groups_known
end
