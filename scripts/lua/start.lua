-- Begin executions of work entries that a worker holds: before this, no user code runs.
--
-- KEYS[1] meta          whether the partition has a group
-- KEYS[2] log           facts
-- KEYS[3] index         runs by last lifecycle change
-- KEYS[4] owners        runs executed without a worker
-- KEYS[5] deadlines     when `expire` must look at a run
-- KEYS[6] delayed       runs queued for later
-- KEYS[7] bodies        their work entries
-- then for each task: its work stream and its dead letters; behind them for each of its entries the run's hash, feed, channel, thread
-- ARGV[1] consumer      which must have the entries pending
-- ARGV[2] held          how many entries of one task it may have pending besides these, about
-- ARGV[3] dead_limit    dead letters kept a task
-- ARGV[4] retain_ms     how long a feed stays after the end
-- ARGV[5] tombstone_ms  how much longer the hash stays
-- then for each task: how many tries it has, how many entries; then for each entry, in the order of their IDs: run, entry ID, exec that was
--   seen when it was taken ("": none), nonce
-- Returns per entry "go <attempt> <tries>", "gone" (look again: own pending entries, with their exec), or what acknowledged and deleted
--   it: "closed", "cancelled", "spent" (a dead letter) or "corrupt" (a dead letter, and nothing else is written). Times are the server's
-- Flags   allow-oom
-- Holds   the same nonce again answers go and writes nothing, unless the run has ended; whoever held the run before can write no more
-- @include lifecycle
-- @include event
-- @include execution
-- @include finish

local consumer, held, dead_limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local retain_ms, tombstone_ms = tonumber(ARGV[4]), tonumber(ARGV[5])
local CORRUPT = '"type":"run.failed","data":{"error":"its hash and its feed do not belong together","reason":"corrupt"}}'
local at, key = 6, 8 -- the next argument and the next key

-- Which of the task's entries are pending for the consumer: one look for all; where that was too short, one each.
local function pending_entries(work, count)
  local first, last, limit = ARGV[at + 1], ARGV[at + 4 * count - 3], held + count
  local found, pending = redis.call('XPENDING', work, GROUP, first, last, limit, consumer), {}
  for _, entry in ipairs(found) do
    pending[entry[1]] = true
  end
  if #found == limit then
    for i = 0, count - 1 do
      local entry = ARGV[at + 4 * i + 1]
      pending[entry] = pending[entry] or #redis.call('XPENDING', work, GROUP, entry, entry, 1, consumer) > 0
    end
  end
  return pending
end

local function tell(run, type, members)
  return add(run, '"type":"' .. type .. '",' .. members, has_groups())
end

-- The body of a work entry, for the letter that takes its place.
local function body_of(work, entry)
  local fields = redis.call('XRANGE', work, entry, entry)[1]
  return fields and { fields[2][4], fields[2][6] } or { '', '' }
end

local function finish_as(run, status, type, members)
  if not tell(run, type, members) then
    return false
  end
  redis.call('HSET', run.hash, 'status', status, 'ended', now_text, 'tail', run.tail)
  local h = redis.call('HMGET', run.hash, 'owner', 'asks', 'thread')
  finish(run, { owner = h[1], asks = h[2], thread = h[3] }, retain_ms, tombstone_ms)
  publish_later(run)
  return true
end

local function spend(run, work, dead, entry)
  local error = '"its process ended ' .. whole(run.tries) .. ' times while it ran"'
  local members = '"attempt":' .. whole(run.attempt) .. ',"data":{"error":' .. error .. ',"reason":"poison"}}'
  if not finish_as(run, 'failed', 'run.failed', members) then
    return false
  end
  redis.call('HSET', run.hash, 'error', error)
  bury(run, dead, body_of(work, entry), '"type":"run.failed",' .. members, dead_limit)
  return true
end

local function begin(run, exec, nonce)
  local attempt = whole(run.attempt + 1)
  if exec ~= '' and not tell(run, 'run.retrying', '"attempt":' .. attempt .. ',"data":{"reason":"owner_lost"}}') then
    return nil
  end
  if not tell(run, 'run.started', '"attempt":' .. attempt .. ',"data":{}}') then
    return nil
  end
  if run.attempt > 0 then -- of the execution before
    redis.call('HDEL', run.hash, 'exec_pos', 'ask')
  end
  redis.call('HSET', run.hash, 'status', 'running', 'exec', attempt .. '-' .. nonce, 'attempt', attempt, 'tries', whole(run.tries + 1),
    'tail', run.tail)
  publish_later(run)
  touch(run)
  return 'go ' .. attempt .. ' ' .. whole(run.tries + 1)
end

local function start(work, dead, tries, pending)
  local id, entry, seen, nonce = unpack(ARGV, at, at + 3)
  local run = { -- every field at once: a table that grows is laid out anew
    id = id, hash = KEYS[key], feed = KEYS[key + 1], channel = KEYS[key + 2], thread = KEYS[key + 3],
    attempt = 0, tries = 0, seq = 0, ms = 0, ms_text = '', tail = '', first_id = false, published = false,
  }
  at, key = at + 4, key + 4
  local h = redis.call('HMGET', run.hash, 'status', 'exec', 'attempt', 'tries', 'cancel', 'tail')
  local status, exec, cancel = h[1], h[2] or '', h[5]
  run.attempt, run.tries = tonumber(h[3] or 0), tonumber(h[4] or 0)
  if exec == whole(run.attempt) .. '-' .. nonce then
    if not TERMINAL[status] then
      return 'go ' .. whole(run.attempt) .. ' ' .. whole(run.tries)
    elseif pending[entry] then
      acknowledge(work, entry)
    end
    return 'closed'
  elseif exec ~= seen or not pending[entry] then
    return 'gone'
  end
  standing(run, h[6])
  local answer
  if not status or TERMINAL[status] then
    answer = 'closed'
  elseif cancel then
    answer = finish_as(run, 'cancelled', 'run.cancelled', '"data":{"reason":' .. cancel .. '}}') and 'cancelled'
  elseif run.tries >= tries then
    answer = spend(run, work, dead, entry) and 'spent'
  else
    answer = begin(run, exec, nonce)
    if answer then
      return answer
    end
  end
  if not answer then
    answer = 'corrupt'
    bury(run, dead, body_of(work, entry), CORRUPT, dead_limit)
  end
  acknowledge(work, entry)
  return answer
end

local answers = {}
while at <= #ARGV do
  local work, dead, tries, count = KEYS[key], KEYS[key + 1], tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  at, key = at + 2, key + 2
  local pending = pending_entries(work, count)
  for _ = 1, count do
    answers[#answers + 1] = start(work, dead, tries, pending)
  end
end
write_entries()
write_ends()
publish_all()
return answers
