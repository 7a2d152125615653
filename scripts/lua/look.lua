-- Read a run's standing: its hash and its feed's last entry, in one step.
--
-- KEYS[1] hash          of the run
-- KEYS[2] feed
-- Returns {status, tail, ID of the feed's last entry}, "" for what is not there
-- Flags   no-writes: answered by a server that is out of memory or read-only too, where MULTI is not
-- Holds   hash and feed are of the same moment; it writes nothing

local hash, feed = KEYS[1], KEYS[2]
local known = redis.call('HMGET', hash, 'status', 'tail')
local newest = redis.call('XREVRANGE', feed, '+', '-', 'COUNT', 1)[1]
return { known[1] or '', known[2] or '', newest and newest[1] or '' }
