-- Take over work entries of consumers that are gone; or look again at entries that are one's own.
--
-- KEYS[1] meta          claimed and claims_quiet
-- KEYS[2] work          stream of a task
-- then for each entry whose body is there the hash of its run
-- ARGV[1] consumer      who takes
-- ARGV[2] whose         `others`: pending for somebody else and idle; `own`: pending for this very consumer
-- ARGV[3] idle_ms       one visibility timeout: how long an entry must be idle, and how long nobody claims after a silence
-- ARGV[4] silent_ms     a consumer that was silent so long and has nothing pending is deleted; 0: nobody looks for one
-- then entry IDs: those whose runs' hashes are given, in that order, then those whose body the caller did not find
-- Returns {"taken" or "quiet", {entry ID, exec or "", tries, …}, entry IDs that were acknowledged since their body is gone,
--   consumers that were deleted}. Times are the server's
-- Flags   allow-oom
-- Holds   live consumers had a whole visibility timeout to renew before anything is taken from them; counts of deliveries stay;
--   an entry that this consumer has already is told again, so a second call at the same time writes nothing
-- @include clock
-- @include quiet

local GROUP = 'workers'
local meta, work = KEYS[1], KEYS[2]
local consumer, is_own, idle_ms, silent_ms = ARGV[1], ARGV[2] == 'own', tonumber(ARGV[3]), tonumber(ARGV[4])
local taken, gone = {}, {}

-- JUSTID: the count of deliveries stays. The server compares the idle time once more, whatever was seen before.
local function claim(entry, min_idle)
  return redis.call('XCLAIM', work, GROUP, consumer, min_idle, entry, 'JUSTID')[1]
end

local function tell(entry, hash)
  local run = redis.call('HMGET', hash, 'exec', 'tries')
  taken[#taken + 1] = entry
  taken[#taken + 1] = run[1] or ''
  taken[#taken + 1] = tonumber(run[2] or 0)
end

-- Nobody can begin an entry without a body any more, and its run is not known.
local function drop(entry)
  if not redis.call('XRANGE', work, entry, entry)[1] then
    redis.call('XACK', work, GROUP, entry)
    gone[#gone + 1] = entry
  end
end

local function take(entry, hash, is_quiet)
  local found = redis.call('XPENDING', work, GROUP, entry, entry, 1)[1]
  if not found then
    return -- settled since the caller looked
  end
  local owner, idle = found[2], found[3]
  local min_idle = is_own and 0 or idle_ms
  if owner == consumer and not is_own then
    if hash then
      tell(entry, hash)
    end
  elseif owner ~= consumer and is_own then
    return -- somebody took it over
  elseif is_quiet then
    begin_idle_time(work, GROUP, entry, owner, idle)
  elseif not hash then
    if idle >= min_idle then
      drop(entry)
    end
  elseif claim(entry, min_idle) then
    tell(entry, hash)
  elseif idle >= min_idle then
    drop(entry)
  end
end

local function delete_silent_consumers()
  local deleted = {}
  local infos = redis.call('EXISTS', work) == 1 and redis.pcall('XINFO', 'CONSUMERS', work, GROUP) or {}
  for _, info in ipairs(infos) do -- none where the group is not there yet
    local known = {}
    for i = 1, #info, 2 do
      known[info[i]] = info[i + 1]
    end
    local name = known['name']
    if name ~= consumer and known['idle'] >= silent_ms and not redis.call('XPENDING', work, GROUP, '-', '+', 1, name)[1] then
      redis.call('XGROUP', 'DELCONSUMER', work, GROUP, name)
      deleted[#deleted + 1] = name
    end
  end
  return deleted
end

local is_quiet = not is_own and note_claim(meta, clock(), idle_ms)
for i = 5, #ARGV do
  take(ARGV[i], KEYS[i - 2], is_quiet)
end
local deleted = silent_ms > 0 and not is_quiet and delete_silent_consumers() or {}
return { is_quiet and 'quiet' or 'taken', taken, gone, deleted }
