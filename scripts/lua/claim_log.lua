-- Take over log entries that a group's consumers hold and do not renew; or look again at entries that are one's own.
--
-- KEYS[1] meta          claimed and claims_quiet
-- KEYS[2] log           facts and bound increments of the partition's runs
-- ARGV[1] group
-- ARGV[2] consumer      who takes
-- ARGV[3] whose         `others`: pending for somebody else and idle; `own`: pending for this very consumer
-- ARGV[4] idle_ms       one visibility timeout: how long an entry must be idle, and how long nobody claims after a silence
-- ARGV[5] limit         how many entries at most
-- ARGV[6] after         only entries behind this ID; "-" for all
-- Returns {"taken" or "quiet", {entry ID, how often it was given out to begin, fields, …}, entry IDs that were acknowledged since the log lost them, where to
--   go on or ""}, or {"nogroup"}. Times are the server's
-- Flags   allow-oom
-- Holds   live consumers had a whole visibility timeout to renew before anything is taken from them; counts stay: who takes an entry over
--   raises its count when it begins it (hold.lua), so that what only waits beside a poison entry loses no try
-- @include clock
-- @include quiet

local meta, log = KEYS[1], KEYS[2]
local group, consumer, is_own = ARGV[1], ARGV[2], ARGV[3] == 'own'
local idle_ms, limit, after = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local is_quiet = not is_own and note_claim(meta, clock(), idle_ms)
local taken, gone = {}, {}

local function tell(entry, deliveries, fields)
  taken[#taken + 1] = entry
  taken[#taken + 1] = deliveries
  taken[#taken + 1] = fields
end

local function take(entry, owner, idle, deliveries)
  local found = redis.call('XRANGE', log, entry, entry)[1]
  if not found then
    redis.call('XACK', log, group, entry)
    gone[#gone + 1] = entry
  elseif is_own then
    tell(entry, deliveries, found[2])
  elseif owner ~= consumer and redis.call('XCLAIM', log, group, consumer, idle_ms, entry, 'JUSTID')[1] then
    tell(entry, deliveries, found[2])
  end
end

local from = after == '-' and after or '(' .. after
local pending
if is_own then
  pending = redis.pcall('XPENDING', log, group, from, '+', limit, consumer)
else
  pending = redis.pcall('XPENDING', log, group, 'IDLE', is_quiet and 0 or idle_ms, from, '+', limit)
end
if pending.err then
  if string.find(pending.err, 'NOGROUP', 1, true) or string.find(pending.err, 'No such key', 1, true) then
    return { 'nogroup' }
  end
  return redis.error_reply(pending.err)
end
for _, one in ipairs(pending) do
  if is_quiet then
    begin_idle_time(log, group, one[1], one[2], one[3])
  else
    take(one[1], one[2], one[3], one[4])
  end
end
return { is_quiet and 'quiet' or 'taken', taken, gone, #pending == limit and pending[#pending][1] or '' }
