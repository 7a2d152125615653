-- Queue again what is due: retries, late starts, deferred entries.
--
-- KEYS[1] delayed       runs by due time
-- KEYS[2] bodies        their work entries: run, LF, feed ID of run.queued, LF, its payload
-- then for each run: hash, work:<task>
-- then for each run: run, task
-- Returns {how many were queued, how many dropped since their runs have ended, run whose body is lost…}. Times are the server's
-- Flags   none: refused before its first write when the server is out of memory
-- Holds   an entry waits in one place; what is not due, is gone or belongs to another task is left alone: a second call writes nothing
-- @include clock
-- @include lifecycle

local delayed, bodies = KEYS[1], KEYS[2]
local now = clock()
local queued, dropped, lost = 0, 0, {}

local function is_due(run)
  local due = redis.call('ZSCORE', delayed, run)
  return due and tonumber(due) <= now
end

local function forget(run)
  redis.call('ZREM', delayed, run)
  redis.call('HDEL', bodies, run)
end

local function promote(run, task, hash, work)
  local known = redis.call('HMGET', hash, 'status', 'task')
  if not known[1] or TERMINAL[known[1]] then
    forget(run)
    dropped = dropped + 1
    return
  elseif known[2] ~= task then
    return -- look again
  end
  local body = redis.call('HGET', bodies, run)
  local queued_id, payload = string.match(body or '', '^[^\n]*\n([^\n]*)\n(.*)$')
  if payload then
    -- The first write: it alone can fail. Were the entry taken out of `delayed` before it, it would be in no place at all.
    redis.call('XADD', work, '*', 'r', run, 'i', queued_id, 'e', payload)
    queued = queued + 1
  else
    lost[#lost + 1] = run
  end
  forget(run)
  redis.call('HDEL', hash, 'due')
end

for i = 1, #ARGV, 2 do
  if is_due(ARGV[i]) then
    promote(ARGV[i], ARGV[i + 1], KEYS[i + 2], KEYS[i + 3])
  end
end
return { queued, dropped, unpack(lost) }
