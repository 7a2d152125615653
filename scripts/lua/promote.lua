-- Queue again what is due: runs to their work streams, retries of reactions to the log, for their group alone.
--
-- KEYS[1] meta          `g:<group>`: the groups; `w:<group>`: how many of their retries wait
-- KEYS[2] log           facts and bound increments, while there is a group
-- KEYS[3] index         runs by last lifecycle change
-- KEYS[4] owners        runs executed without a worker, by owner_until
-- KEYS[5] deadlines     when `expire` must look at a run
-- KEYS[6] delayed       runs and retries by due time
-- KEYS[7] bodies        their work entries, their events
-- then for each run: hash, work:<task>
-- ARGV[1] runs          how many pairs follow
-- then for each run: run, task; then for each retry of a reaction its member of `delayed`: group, LF, entry
-- Returns {how many were queued, how many dropped since their run has ended or their group is gone, member whose body is lost…}.
--   Times are the server's
-- Flags   none: refused before its first write when the server is out of memory
-- Holds   an entry waits in one place; what is not due, is gone or belongs to another task is left alone: a second call writes nothing
-- @include log
-- @include lifecycle

local queued, dropped, lost = 0, 0, {}
local runs = tonumber(ARGV[1])

local function is_due(member)
  local due = redis.call('ZSCORE', delayed, member)
  return due and tonumber(due) <= now
end

local function forget(member)
  redis.call('ZREM', delayed, member)
  redis.call('HDEL', bodies, member)
end

local function promote_run(run, task, hash, work)
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

-- Never again to the feed or to other groups: they have had it.
local function promote_retry(member)
  local group = string.match(member, '^[^\n]*')
  local body = redis.call('HGET', bodies, member)
  local run, id, tries, payload = string.match(body or '', '^([^\n]*)\n([^\n]*)\n([^\n]*)\n(.*)$')
  if redis.call('HEXISTS', meta, 'g:' .. group) == 0 then
    dropped = dropped + 1
  elseif payload then
    to_log('r', run, 'i', id, 'e', payload, 'g', group, 't', tries)
    queued = queued + 1
  else
    lost[#lost + 1] = member
  end
  forget(member)
  if redis.call('HINCRBY', meta, 'w:' .. group, -1) <= 0 then
    redis.call('HDEL', meta, 'w:' .. group)
  end
end

for i = 1, runs do
  local run, task = ARGV[2 * i], ARGV[2 * i + 1]
  if is_due(run) then
    promote_run(run, task, KEYS[6 + 2 * i], KEYS[7 + 2 * i])
  end
end
for i = 2 + 2 * runs, #ARGV do
  if is_due(ARGV[i]) then
    promote_retry(ARGV[i])
  end
end
return { queued, dropped, unpack(lost) }
