-- Give up a claim, or drop an entry with whatever claim there is.
--
-- KEYS[1] entry         as cache_take.lua has it; also the name of the channel that those who wait listen to
-- ARGV[1] token         of the claim that is given up; "" drops the entry
-- Returns {"dropped"}, or {"nothing"}: there was no such claim or entry
-- Flags   allow-oom: it frees memory
-- Holds   only who has a claim gives it up; what was under way when an entry was dropped is not put; who waits is woken

local entry, token = KEYS[1], ARGV[1]

if token == '' then
  if redis.call('DEL', entry) == 0 then
    return { 'nothing' }
  end
elseif redis.call('HGET', entry, 'claim') == token then
  redis.call('HDEL', entry, 'claim', 'claim_until')
else
  return { 'nothing' }
end
redis.call('SPUBLISH', entry, 'dropped')
return { 'dropped' }
