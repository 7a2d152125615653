-- Append events of one partition, from outside or live: each is applied whole or not at all.
--
-- KEYS[1] meta          layout, bindings
-- KEYS[2] log           facts and bound increments, while there is a group
-- KEYS[3] index         runs by last lifecycle change
-- KEYS[4] owners        runs executed without a worker, by owner_until
-- KEYS[5] deadlines     when `expire` must look at a run
-- KEYS[6] delayed       runs queued for later, by due time
-- KEYS[7] bodies        their work entries
-- then for each batch: its run's hash, feed, channel, thread; behind them work:<task> for each run.queued in it
-- ARGV[1] layout        as the caller knows it
-- ARGV[2] feed_limit    events a run
-- ARGV[3] log_limit     entries
-- ARGV[4] work_limit    entries a task, and delayed starts of the partition
-- ARGV[5] retain_ms     how long a feed stays after the end
-- ARGV[6] tombstone_ms  how much longer the hash stays
-- ARGV[7] silent_ms     after which a run that nobody executes is ended; 0: never
-- ARGV[8] term_ms       of an owner
-- ARGV[9] bindings      how many binding fields follow: `b:<type>` of each type of increment in the call
-- then for each batch: run, writer (`p:<producer>` or `x:<exec>`), prev, number of its first event, how many segments;
--   numbers are consecutive; without segments it asks what is stored for the writer
-- then for each segment: type, how many events, what a lifecycle type brings (below), the payloads
--   run.queued   task, start, thread, delay in ms, how many labels, names and values
--   run.started  nonce, owner, start, task, thread, how many labels, names and values; with a nonce the payload is what follows
--                `"attempt":<n>,`, and it is the only event of its batch
--   run.waiting  ask        run.resumed  ask, value        run.failed  error
-- Returns {"topology", layout of the partition or ""}: nothing applied; or {"ok", list per batch of outcomes}:
--   "appended <count> <first ID>[ <attempt>]", "duplicate <count> <first ID or ->[ <attempt>]", "hole <count> <stored>", "stale 1",
--   "closed 1 <status> <tail>", "illegal 1 <from> <type>", "busy 1 <run>", "full 1 <group or task>", "exists 1", "corrupt 1",
--   "stored <number>"; last in a live batch: "cancelling" while a cancel is asked for. Times are the server's.
-- Flags   none: refused before its first write when the server is out of memory
-- Holds   a call executed again changes nothing; a refused event takes no number; events behind a refused one are refused `hole`
-- @include lifecycle
-- @include clock
-- @include feed_id
-- @include finish
-- @include make_room

local meta, log, index, owners, deadlines, delayed, bodies = unpack(KEYS, 1, 7)
local feed_limit, log_limit, work_limit = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local retain_ms, tombstone_ms, silent_ms, term_ms = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local PRODUCERS, PRODUCER_SILENT_MS = 64, 600000

local bindings = tonumber(ARGV[9])
local known = redis.call('HMGET', meta, 'layout', 'groups', 'b:*', unpack(ARGV, 10, 9 + bindings))
if known[1] ~= ARGV[1] then
  return { 'topology', known[1] or '' }
end
local has_groups = (tonumber(known[2] or 0)) > 0
local bound = {}
for i = 1, bindings do
  bound[string.sub(ARGV[9 + i], 3)] = has_groups and (tonumber(known[3] or 0) > 0 or tonumber(known[3 + i] or 0) > 0)
end
local now = clock()
local at, key = 10 + bindings, 8 -- the next argument and the next key

-- Whether an event of this type goes to the log: facts while there is a group, increments while one has bound them.
local function is_logged(type)
  local binding = bound[type]
  if binding == nil then
    return has_groups
  end
  return binding
end

local function take(n)
  at = at + n
  return unpack(ARGV, at - n, at - 1)
end

local function take_labels()
  local labels = {}
  for _ = 1, tonumber(take(1)) do
    local name, value = take(2)
    labels[#labels + 1] = 'l:' .. name
    labels[#labels + 1] = value
  end
  return labels
end

-- What a lifecycle event brings besides its payload.
local function take_extras(type)
  local extras = {}
  if type == 'run.queued' then
    extras.task, extras.start, extras.thread, extras.delay = take(4)
    extras.labels = take_labels()
    extras.work = KEYS[key]
    key = key + 1
  elseif type == 'run.started' then
    extras.nonce, extras.owner, extras.start, extras.task, extras.thread = take(5)
    extras.labels = take_labels()
  elseif type == 'run.waiting' then
    extras.ask = take(1)
  elseif type == 'run.resumed' then
    extras.ask, extras.value = take(2)
  elseif type == 'run.failed' then
    extras.error = take(1)
  end
  return extras
end

local function load_run(id, writer)
  local live = string.sub(writer, 1, 1) == 'x'
  local run = {
    id = id, live = live, writer = string.sub(writer, 3), position = live and 'exec_pos' or writer, changes = {},
    hash = KEYS[key], feed = KEYS[key + 1], channel = KEYS[key + 2], thread = KEYS[key + 3],
  }
  key = key + 4
  local h = redis.call('HMGET', run.hash, 'status', 'tail', 'exec', 'cancel', 'attempt', 'owner', 'ask', 'start', 'created', run.position)
  run.status, run.exec, run.cancel, run.owner, run.ask, run.start, run.created = h[1], h[3], h[4], h[6], h[7], h[8], h[9]
  run.attempt = tonumber(h[5] or 0)
  run.seq, run.ms = split_id(h[2])
  run.tail = h[2] or ''
  run.ms = math.max(run.ms, now)
  run.stored, run.first_number, run.first_seq = 0, 0, 0
  run.has_position = h[10] and true
  if h[10] and (not live or run.exec == run.writer) then
    local stored, first_number, first_seq = string.match(h[10], '^(%d+) (%d+) (%d+)')
    run.stored, run.first_number, run.first_seq = tonumber(stored), tonumber(first_number), tonumber(first_seq)
  end
  return run
end

-- Tells duplicates with the IDs that the writer's last call got, `-` for older ones; one outcome for each run of IDs.
local function tell_duplicates(run, outcomes, number, count, attempt)
  local last, shift, ids = number + count - 1, run.first_seq - run.first_number, {}
  local from = math.max(number, run.first_number)
  if run.first_number > 0 and from <= last then
    for _, entry in ipairs(redis.call('XRANGE', run.feed, whole(from + shift), whole(last + shift))) do
      local seq, ms = split_id(entry[1])
      ids[seq - shift] = ms
      run.known = run.known or seq - shift
    end
  end
  while number <= last do
    local ms, same = ids[number], 1
    while number + same <= last and ids[number + same] == ms do
      same = same + 1
    end
    local id = ms and whole(number + shift) .. '-' .. whole(ms) or '-'
    outcomes[#outcomes + 1] = 'duplicate ' .. whole(same) .. ' ' .. id .. attempt
    number = number + same
  end
end

-- Forgets producers that have been silent for ten minutes, once there are many.
local function forget_producers(run)
  if redis.call('HLEN', run.hash) <= PRODUCERS then
    return
  end
  local fields, silent, producers = redis.call('HGETALL', run.hash), {}, 0
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 2) == 'p:' then
      producers = producers + 1
      if now - tonumber(string.match(fields[i + 1], '(%d+)$')) > PRODUCER_SILENT_MS then
        silent[#silent + 1] = fields[i]
      end
    end
  end
  if producers >= PRODUCERS then
    for _, field in ipairs(silent) do
      redis.call('HDEL', run.hash, field)
    end
  end
end

-- What a queued or started event creates: thread, labels, task.
local function describe(run, extras)
  local changes = run.changes
  changes[#changes + 1] = 'start'
  changes[#changes + 1] = extras.start
  if extras.task ~= '' then
    changes[#changes + 1] = 'task'
    changes[#changes + 1] = extras.task
  end
  for _, text in ipairs(extras.labels) do
    changes[#changes + 1] = text
  end
  if extras.thread ~= '' then
    changes[#changes + 1] = 'thread'
    changes[#changes + 1] = extras.thread
    local latest = redis.call('HGET', run.thread, 'latest')
    if latest and latest ~= run.id then
      changes[#changes + 1] = 'prev'
      changes[#changes + 1] = latest
    end
    redis.call('HSET', run.thread, 'active', run.id, 'latest', run.id)
    redis.call('PERSIST', run.thread)
  end
end

-- The run of the same thread that is still in progress, if there is one.
local function other_active(run, extras)
  if not extras.thread or extras.thread == '' then
    return nil
  end
  local active = redis.call('HGET', run.thread, 'active')
  return active and active ~= run.id and active or nil
end

-- The refusal of an ended run: with its last event's ID, which says when it ended.
local function closed(run)
  local tail = run.first_id and whole(run.seq) .. '-' .. whole(run.ms) or run.tail
  return 'closed 1 ' .. run.status .. ' ' .. tail
end

-- Whether a segment may be applied now: nil and the status after it, or the refusal.
local function judge(run, type, extras)
  if run.live and run.exec ~= run.writer then
    return 'stale 1'
  end
  if TERMINAL[run.status] then
    return closed(run)
  end
  local illegal = 'illegal 1 ' .. (run.status or 'new') .. ' ' .. type
  local status
  if extras.nonce and extras.nonce ~= '' then
    if run.status and run.owner ~= extras.owner then
      return illegal
    end
    status = 'running'
  else
    status = next_status(run.status, type, run.live)
  end
  if not status or (type == 'run.resumed' and extras.ask ~= '' and extras.ask ~= run.ask) then
    return illegal
  end
  if not run.status then
    local busy = other_active(run, extras)
    if busy then
      return 'busy 1 ' .. busy
    end
  end
  if not run.live and not ENDS[type] and type ~= 'run.resumed' then
    if extras.work and (redis.call('XLEN', extras.work) >= work_limit
        or tonumber(extras.delay) > 0 and redis.call('ZCARD', delayed) >= work_limit) then
      return 'full 1 ' .. extras.task
    end
    if is_logged(type) and redis.call('XLEN', log) >= log_limit then
      local behind = make_room(meta, log, log_limit)
      if behind then
        return 'full 1 ' .. behind
      end
    end
  end
  return nil, status
end

local function add(run, type, payload, logged)
  local id = whole(run.seq + 1) .. '-' .. whole(run.ms)
  -- The first write: it alone can fail on data. A hash without feed finds no stream; one that fell behind has too small an ID.
  local added
  if run.seq == 0 then
    if redis.call('EXISTS', run.feed) == 1 then
      return nil
    end
    added = redis.pcall('XADD', run.feed, id, 'e', payload)
  else
    added = redis.pcall('XADD', run.feed, 'NOMKSTREAM', id, 'e', payload)
  end
  if not added or added.err then
    return nil
  end
  run.seq = run.seq + 1
  if logged then
    redis.call('XADD', log, '*', 'r', run.id, 'i', id, 'e', payload)
  end
  run.published[#run.published + 1] = payload
  run.first_id = run.first_id or id
  return id
end

-- What a lifecycle event changes besides feed and log.
local function apply_lifecycle(run, type, extras, status, id, payload)
  local changes = run.changes
  local function set(field, value)
    changes[#changes + 1] = field
    changes[#changes + 1] = value
  end
  if not run.status then
    set('created', run.ms)
    run.created = run.ms
  end
  if type == 'run.queued' then
    describe(run, extras)
    if tonumber(extras.delay) > 0 then
      set('due', now + extras.delay)
      redis.call('HSET', bodies, run.id, run.id .. '\n' .. id .. '\n' .. payload)
      redis.call('ZADD', delayed, now + extras.delay, run.id)
    else
      redis.call('XADD', extras.work, '*', 'r', run.id, 'i', id, 'e', payload)
    end
  elseif type == 'run.started' and not run.status then
    describe(run, extras)
  elseif type == 'run.waiting' then
    set('ask', extras.ask)
    run.ask = extras.ask
  elseif type == 'run.resumed' then
    set('a:' .. (run.ask or ''), extras.value)
    set('asks', 1)
    set('ask', '')
  elseif type == 'run.failed' then
    set('error', extras.error)
  end
  if extras.nonce and extras.nonce ~= '' then
    run.attempt, run.exec = run.attempt + 1, whole(run.attempt + 1) .. '-' .. extras.nonce
    set('attempt', run.attempt)
    set('exec', run.exec)
    set('owner', extras.owner)
    set('ask', '')
    redis.call('HDEL', run.hash, 'exec_pos')
    redis.call('ZADD', owners, now + term_ms, run.id)
    if not run.cancel then -- else its grace goes on
      redis.call('ZREM', deadlines, run.id)
    end
  elseif status == 'running' and run.attempt == 0 and (not run.status or run.status == 'queued') and silent_ms > 0 then
    redis.call('ZADD', deadlines, now + silent_ms, run.id)
  end
  if status ~= run.status then
    set('status', status)
    run.status = status
    if TERMINAL[status] then
      set('ended', run.ms)
      run.finished = true
    else
      redis.call('ZADD', index, now, run.id)
    end
  end
end

-- Applies the events of a segment that are new; returns how many, and the refusal of the next one if there is one.
-- A lifecycle event is a segment of its own, so one judgement serves a segment.
local function append_segment(run, type, extras, count, first)
  local refusal, status = judge(run, type, extras)
  if refusal then
    return 0, refusal
  end
  local logged = is_logged(type)
  for i = first, count do
    local payload = ARGV[at + i - 1]
    if extras.nonce and extras.nonce ~= '' then
      payload = '"type":"run.started","attempt":' .. whole(run.attempt + 1) .. ',' .. payload
    end
    local id = add(run, type, payload, logged)
    if not id then
      return i - first, 'corrupt 1'
    end
    if status ~= run.status or string.sub(type, 1, 4) == 'run.' then
      apply_lifecycle(run, type, extras, status, id, payload)
    end
  end
  return count - first + 1
end

-- Writes what the batch changed in the hash, trims the feed, publishes.
local function write_back(run, taken)
  if taken == 0 then
    return
  end
  local position = whole(run.stored) .. ' ' .. whole(run.first_number) .. ' ' .. whole(run.first_seq)
  if not run.live then
    position = position .. ' ' .. whole(now)
    if not run.has_position then
      forget_producers(run)
    end
  end
  local changes = run.changes
  changes[#changes + 1] = run.position
  changes[#changes + 1] = position
  if run.first_id then
    changes[#changes + 1] = 'tail'
    changes[#changes + 1] = whole(run.seq) .. '-' .. whole(run.ms)
  end
  redis.call('HSET', run.hash, unpack(changes))
  if not run.first_id then
    return
  end
  -- Whole nodes only, and not at every call: the limit is a bound on memory, not an exact number.
  if run.seq > feed_limit and run.seq % 64 < #run.published then
    redis.call('XTRIM', run.feed, 'MAXLEN', '~', feed_limit)
  end
  if run.finished then
    finish({ hash = run.hash, feed = run.feed, thread = run.thread, index = index, owners = owners, deadlines = deadlines },
      run.id, now, retain_ms, tombstone_ms)
  end
  redis.call('SPUBLISH', run.channel, run.first_id .. '\n' .. table.concat(run.published, '\n'))
end

-- A run.queued of a run that exists: the same start again, or another one. Nil where the run is new.
local function repeated_start(run, type, extras)
  if type ~= 'run.queued' or not run.status then
    return nil
  end
  return run.start == extras.start and 'duplicate' or 'exists 1'
end

local function append_batch()
  local id, writer, prev, number, segments = take(5)
  local run = load_run(id, writer)
  prev, number, segments = tonumber(prev), tonumber(number), tonumber(segments)
  if segments == 0 then
    if run.live and run.exec ~= run.writer then
      return { TERMINAL[run.status] and closed(run) or 'stale 1' }
    end
    return { 'stored ' .. whole(run.stored) }
  end
  run.published = {}
  local outcomes, refused, taken = {}, false, 0
  for _ = 1, segments do
    local type, count = take(2)
    count = tonumber(count)
    local extras = take_extras(type)
    local first = 1
    if not refused and number <= run.stored and (not run.live or run.exec == run.writer) then
      local seen = math.min(count, run.stored - number + 1)
      local begun = extras.nonce and run.exec and string.sub(run.exec, -#extras.nonce) == extras.nonce
      tell_duplicates(run, outcomes, number, seen, begun and ' ' .. whole(run.attempt) or '')
      first, number, prev = seen + 1, number + seen, number + seen - 1
    end
    if not refused and first <= count then
      local again = repeated_start(run, type, extras)
      if again == 'duplicate' then
        outcomes[#outcomes + 1] = 'duplicate 1 1-' .. run.created
        if prev == run.stored then -- else something before it was lost, which the next event is told
          run.stored, run.first_number, run.first_seq, taken = number, number, 1, taken + 1
        end
        first, number, prev = first + 1, number + 1, number
      elseif again then
        refused = again
      elseif prev ~= run.stored and not (run.live and run.exec ~= run.writer) then
        refused = 'hole'
      else
        local first_seq = run.seq + 1
        local applied, refusal = append_segment(run, type, extras, count, first)
        if applied > 0 then
          if run.first_seq + number - run.first_number ~= first_seq then
            run.first_number, run.first_seq = number, first_seq
          elseif taken == 0 then -- a body that begins with duplicates is one call
            run.first_seq = run.first_seq + (run.known or number) - run.first_number
            run.first_number = run.known or number
          end
          local outcome = 'appended ' .. whole(applied) .. ' ' .. whole(first_seq) .. '-' .. whole(run.ms)
          if extras.nonce and extras.nonce ~= '' then
            outcome = outcome .. ' ' .. whole(run.attempt)
          end
          outcomes[#outcomes + 1] = outcome
          taken = taken + applied
          first, number = first + applied, number + applied
          prev, run.stored = number - 1, number - 1
        end
        refused = refusal
      end
      if refused and refused ~= 'hole' then
        outcomes[#outcomes + 1] = refused
        first = first + 1
      end
    end
    if refused and first <= count then
      outcomes[#outcomes + 1] = 'hole ' .. whole(count - first + 1) .. ' ' .. whole(run.stored)
    end
    at = at + count
  end
  write_back(run, taken)
  if run.live and run.cancel and not TERMINAL[run.status] then
    outcomes[#outcomes + 1] = 'cancelling'
  end
  return outcomes
end

local replies = {}
while at <= #ARGV do
  replies[#replies + 1] = append_batch()
end
return { 'ok', replies }
