-- Ask for turns under rates: the generic cell rate algorithm, as a continuous-state leaky bucket.
--
-- then for each request: where its rate's level stands
-- then for each request: count, period_ms, burst, cost (at most burst); turns come every period_ms / count
-- Returns per request 0 and it is taken, or how many ms until it could be. Times are the server's
-- Flags   allow-oom: what waits for a turn frees memory when it runs; the levels are small and expire
-- Holds   a refused request takes nothing; no wait is longer than burst turns take, wherever the clock went
-- Source  ITU-T I.371 (03/2004), "GCRA"; ATM Forum TM 4.0, 4.4.2. The level is kept in 1/count ms, so that all sums are whole
-- @include clock
-- @include feed_id

local now, at, answers = clock(), 1, {}

local function ask(key, count, period_ms, burst, cost)
  local level, looked = string.match(redis.call('GET', key) or '', '^(%d+) (%d+)$')
  level, looked = tonumber(level or 0), tonumber(looked or now)
  level = math.min(level, burst * period_ms) -- the rate may have been another one
  local elapsed = now - looked
  if elapsed > 0 then -- else the clock went back: what flows out is counted from here
    level = math.max(0, level - elapsed * count)
  end
  local room = (burst - cost) * period_ms
  local taken = level <= room
  local after = taken and level + cost * period_ms or level
  if taken or elapsed < 0 then
    redis.call('SET', key, whole(after) .. ' ' .. whole(now), 'PX', whole(math.ceil(after / count)))
  end
  return taken and 0 or math.ceil((level - room) / count)
end

for i = 1, #KEYS do
  local count, period_ms, burst, cost = unpack(ARGV, at, at + 3)
  answers[i] = ask(KEYS[i], tonumber(count), tonumber(period_ms), tonumber(burst), tonumber(cost))
  at = at + 4
end
return answers
