-- Set one entry of an inlet aside as a dead letter, in its place among those that are taken.
--
-- KEYS[1] marks         per source, the last entry taken from it
-- KEYS[2] dead          letters of the inlet, in the same slot
-- ARGV[1] source        `in:<inlet>`
-- ARGV[2] before_it     the entry before it for this partition
-- ARGV[3] id            its own
-- ARGV[4] limit         letters that are kept
-- then the fields and values of the letter
-- Returns "taken", "duplicate", or "hole <mark>": nothing is set aside
-- Flags   none: refused before its first write when the server is out of memory
-- Holds   an entry is set aside once, and only behind the one before it; a second call writes nothing
-- @include safe_point

local marks, dead = KEYS[1], KEYS[2]
local source, before_it, id, limit = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local mark = redis.call('HGET', marks, source) or '0-0'
if not before(mark, id) then
  return 'duplicate'
end
if before_it ~= mark then
  return 'hole ' .. mark
end
redis.call('XADD', dead, 'MAXLEN', '~', limit, '*', unpack(ARGV, 5))
redis.call('HSET', marks, source, id)
return 'taken'
