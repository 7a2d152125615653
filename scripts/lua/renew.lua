-- Push back what a process holds: owner_until of runs executed without a worker, visibility of work entries.
--
-- KEYS[1] meta          seen and quiet
-- KEYS[2] owners        runs by owner_until
-- then for each owned run its hash; then for each task its work stream, and behind it for each of its entries the run's hash
-- ARGV[1] term_ms       of an owner
-- ARGV[2] consumer      which holds the entries; "" where there are none
-- ARGV[3] owned         how many owned runs follow
-- then for each owned run: run, owner; then for each task: how many entries, and for each: entry ID, the run's exec as known
-- Returns per owned run, then per entry: "renewed", "cancelling" (renewed, and a cancel is asked for), "closed <status>", "stale" (another
--   owner or exec) or "unknown". Times are the server's
-- Flags   allow-oom
-- Holds   a renewal sets owner_until to one term from now, whatever it was; an entry is taken back from whoever claimed it and has not
--         begun; it counts as a pass
-- @include clock
-- @include pass
-- @include lifecycle

local meta, owners = KEYS[1], KEYS[2]
local term_ms, consumer, owned = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local now = clock()
local answers = {}

pass(meta, owners, now, term_ms)

local function judge(known, is_held)
  if not known[1] then
    return 'unknown'
  elseif TERMINAL[known[1]] then
    return is_held and 'closed ' .. known[1] or 'stale'
  elseif not is_held then
    return 'stale'
  end
  return known[2] and 'cancelling' or 'renewed'
end

for i = 1, owned do
  local run, owner = ARGV[2 + 2 * i], ARGV[3 + 2 * i]
  local known = redis.call('HMGET', KEYS[2 + i], 'status', 'cancel', 'owner')
  local answer = judge(known, known[3] == owner)
  if answer == 'renewed' or answer == 'cancelling' then
    redis.call('ZADD', owners, now + term_ms, run)
  end
  answers[#answers + 1] = answer
end

local at, key = 4 + 2 * owned, 3 + owned
while at <= #ARGV do
  local work, count = KEYS[key], tonumber(ARGV[at])
  local kept = {}
  for i = 1, count do
    local entry, exec = ARGV[at + 2 * i - 1], ARGV[at + 2 * i]
    local known = redis.call('HMGET', KEYS[key + i], 'status', 'cancel', 'exec')
    local answer = judge(known, (known[3] or '') == exec)
    if answer == 'renewed' or answer == 'cancelling' then
      kept[#kept + 1] = entry
    end
    answers[#answers + 1] = answer
  end
  if #kept > 0 then
    kept[#kept + 1] = 'JUSTID'
    redis.call('XCLAIM', work, 'workers', consumer, 0, unpack(kept))
  end
  at, key = at + 1 + 2 * count, key + 1 + count
end
return answers
