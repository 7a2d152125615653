-- Note how far an inlet is: it is never moved back.
--
-- KEYS[1] inlet         what is kept of it
-- ARGV[1] stream        whose entries it takes
-- ARGV[2] done          everything up to this entry was taken, set aside or left out
-- ARGV[3] added         entries that the stream ever had up to there, "" where that is not known
-- then partitions, each with the last entry that it took
-- Returns "noted", "behind" (it was further: nothing is changed), or "other <stream>" that it was begun with
-- Flags   none: refused before its first write when the server is out of memory
-- Holds   the entry noted never goes back; a second call changes nothing
-- @include safe_point

local inlet = KEYS[1]
local stream, done, added = ARGV[1], ARGV[2], ARGV[3]

local held = redis.call('HMGET', inlet, 'stream', 'done')
if held[1] and held[1] ~= stream then
  return 'other ' .. held[1]
end
if held[2] and before(done, held[2]) then
  return 'behind'
end
redis.call('HSET', inlet, 'stream', stream, 'done', done, 'added', added, unpack(ARGV, 4))
return 'noted'
