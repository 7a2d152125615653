-- Push back the owner_until of runs that a process executes without a worker.
--
-- KEYS[1] meta          seen and quiet
-- KEYS[2] owners        runs by owner_until
-- then for each run its hash
-- ARGV[1] term_ms       of an owner
-- then for each run: run, owner
-- Returns per run "renewed", "cancelling" (renewed, and a cancel is asked for), "closed <status>", "stale" (another owner) or "unknown".
--   Times are the server's
-- Flags   allow-oom
-- Holds   a renewal sets owner_until to one term from now, whatever it was; it counts as a pass
-- @include clock
-- @include pass
-- @include lifecycle

local meta, owners = KEYS[1], KEYS[2]
local term_ms = tonumber(ARGV[1])
local now = clock()

pass(meta, owners, now, term_ms)
local answers = {}
for i = 3, #KEYS do
  local run, owner = ARGV[2 * i - 4], ARGV[2 * i - 3]
  local known = redis.call('HMGET', KEYS[i], 'status', 'owner', 'cancel')
  if not known[1] then
    answers[#answers + 1] = 'unknown'
  elseif TERMINAL[known[1]] then
    answers[#answers + 1] = known[2] == owner and 'closed ' .. known[1] or 'stale'
  elseif known[2] ~= owner then
    answers[#answers + 1] = 'stale'
  else
    redis.call('ZADD', owners, now + term_ms, run)
    answers[#answers + 1] = known[3] and 'cancelling' or 'renewed'
  end
end
return answers
