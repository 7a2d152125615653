-- Write a schedule's record, if it is still what the caller read: a pause and a firing may come at the same time.
--
-- KEYS[1] schedules     name → record, in JSON that this script does not read
-- ARGV[1] name
-- ARGV[2] known         the record as the caller read it, "" for none
-- ARGV[3] record        what it becomes
-- Returns {"written"}, or {"changed", the record that is there, "" for none}
-- Flags   none: refused before its write when the server is out of memory
-- Holds   no change that somebody else made in between is overwritten; a second call writes nothing

local schedules = KEYS[1]
local name, known, record = ARGV[1], ARGV[2], ARGV[3]

local there = redis.call('HGET', schedules, name) or ''
if there ~= known then
  return { 'changed', there }
end
redis.call('HSET', schedules, name, record)
return { 'written' }
