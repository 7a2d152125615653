-- Places of limits that all workers share: taken, renewed, given back.
--
-- ARGV[1] holder        random, one of a process
-- ARGV[2] term_ms       after which a place that nobody renews is free
-- then for each request: its limit's places, a zset of `<run> <holder>` by until
-- then for each request: verb, at_most, run
--   take       a place for a run; one that it has already is renewed
--   take_over  the same, where another process had the run: that one's place passes
--   renew      sets until to one term from now; a place that was thought lost is there again, since its run goes on
--   give_back
-- Returns per request "taken", "full", "renewed" or "given". Times are the server's
-- Flags   allow-oom: at most at_most places, and what gives one back must get through
-- Holds   a holder has one place for a run, however often it asks. After a silence of more than a third of a term (or with `seen`
--   ahead of the clock) no place is free for a whole term but those given back: nobody is to blame for not having renewed.
--   At most once in five terms, so that the dead cannot stay
-- @include clock

local holder, term_ms = ARGV[1], tonumber(ARGV[2])
local KEEP_MS = 86400000 -- of places whose holders are gone; in use they are renewed
local now, at, answers = clock(), 3, {}

-- Notes that somebody was here, and whether there was a silence before. `seen` is the time of the last call, `calm` the end of
-- five terms behind the silence; neither has the space that places have.
local function look(places)
  local seen, calm = redis.call('ZSCORE', places, 'seen'), redis.call('ZSCORE', places, 'calm')
  seen, calm = tonumber(seen or now), tonumber(calm or 0)
  if (now - seen > term_ms / 3 or seen > now) and (calm < now or calm > now + 5 * term_ms) then
    calm = now + 5 * term_ms
    redis.call('ZADD', places, calm, 'calm')
    -- the clock may have gone back
    for _, place in ipairs(redis.call('ZRANGEBYSCORE', places, '(' .. now + term_ms, '+inf')) do
      redis.call('ZADD', places, place == 'calm' and calm or now + term_ms, place)
    end
  end
  redis.call('ZADD', places, now, 'seen')
  return calm
end

-- How many are taken.
local function occupied(places, calm)
  local markers = calm > 0 and 2 or 1
  if calm - now <= 4 * term_ms then
    redis.call('ZREMRANGEBYSCORE', places, '-inf', '(' .. now)
    markers = calm >= now and 2 or 1
  end
  return redis.call('ZCARD', places) - markers
end

local function hold(places, place, answer)
  redis.call('ZADD', places, now + term_ms, place)
  redis.call('PEXPIRE', places, KEEP_MS)
  return answer
end

local function take(places, at_most, run, takes_over)
  local place, calm = run .. ' ' .. holder, look(places)
  if redis.call('ZSCORE', places, place) then
    return hold(places, place, 'taken')
  end
  if takes_over then
    for _, other in ipairs(redis.call('ZRANGE', places, 0, -1)) do
      if string.sub(other, 1, #run + 1) == run .. ' ' then
        redis.call('ZREM', places, other)
      end
    end
  end
  if occupied(places, calm) >= at_most then
    return 'full'
  end
  return hold(places, place, 'taken')
end

local function renew(places, run)
  look(places)
  return hold(places, run .. ' ' .. holder, 'renewed')
end

local function give_back(places, run)
  redis.call('ZREM', places, run .. ' ' .. holder)
  if occupied(places, look(places)) == 0 then
    redis.call('DEL', places)
  end
  return 'given'
end

for i = 1, #KEYS do
  local verb, at_most, run = unpack(ARGV, at, at + 2)
  if verb == 'renew' then
    answers[i] = renew(KEYS[i], run)
  elseif verb == 'give_back' then
    answers[i] = give_back(KEYS[i], run)
  else
    answers[i] = take(KEYS[i], tonumber(at_most), run, verb == 'take_over')
  end
  at = at + 3
end
return answers
