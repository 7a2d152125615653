-- Events enter their runs: what append, settle, relay and requeue have in common. They begin with the same arguments.
--
-- ARGV[1] layout        as the caller knows it
-- ARGV[2] feed_limit    events a run
-- ARGV[3] log_limit     entries
-- ARGV[4] work_limit    entries a task, and delayed starts of the partition
-- ARGV[5] retain_ms     how long a feed stays after the end
-- ARGV[6] tombstone_ms  how much longer the hash stays
-- ARGV[7] silent_ms     after which a run that nobody executes is ended; 0: never
-- ARGV[8] term_ms       of an owner
-- ARGV[9] bindings      how many binding fields follow: `b:<type>` of each type of increment in the call
-- take(n)               the next n arguments; at, key: the next argument and the next key
-- load_run(id, field)   a run, its keys being the next four: hash, feed, channel, thread
-- take_segment()        {type, count, extras, at}: the next arguments as append.lua's header has them
-- ending                the run that ends in the same step, if there is one
-- judge, apply          whether a segment may be applied, and that it is
-- write_back(run)       once a run and call; keep(run): the same without telling its followers
-- @include lifecycle
-- @include event
-- @include finish
-- @include make_room

local layout, feed_limit, log_limit, work_limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local retain_ms, tombstone_ms, silent_ms, term_ms = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local bindings = tonumber(ARGV[9])
local known = redis.call('HMGET', meta, 'layout', 'groups', 'b:*', unpack(ARGV, 10, 9 + bindings))
groups_known = (tonumber(known[2] or 0)) > 0
local bound = {}
for i = 1, bindings do
  bound[string.sub(ARGV[9 + i], 3)] = groups_known and (tonumber(known[3] or 0) > 0 or tonumber(known[3 + i] or 0) > 0)
end
local at, key = 10 + bindings, 8 -- the next argument and the next key
local ending -- the run that ends in the same step: it does not keep its thread busy

-- Whether an event of this type goes to the log: facts while there is a group, increments while one has bound them.
local function is_logged(type)
  local binding = bound[type]
  if binding == nil then
    return groups_known
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
    extras.ask, extras.value, extras.task = take(3)
    if extras.task ~= '' then -- a parked run goes on in this stream
      extras.work = KEYS[key]
      key = key + 1
    end
  elseif type == 'run.failed' then
    extras.error = take(1)
  end
  return extras
end

-- The next segment; what was taken of it are the arguments in front of its payloads.
local function take_segment()
  local type, count = take(2)
  local segment = { type = type, count = tonumber(count), extras = take_extras(type) }
  segment.at = at
  at = at + segment.count
  return segment
end

-- The run whose keys are the next four; field: one more of its hash, which is returned.
local function load_run(id, field)
  local run = { id = id, changes = {}, hash = KEYS[key], feed = KEYS[key + 1], channel = KEYS[key + 2], thread = KEYS[key + 3] }
  key = key + 4
  local h = redis.call('HMGET', run.hash, 'status', 'tail', 'exec', 'cancel', 'attempt', 'owner', 'ask', 'start', 'created', field)
  run.status, run.exec, run.cancel, run.owner, run.ask, run.start, run.created = h[1], h[3], h[4], h[6], h[7], h[8], h[9]
  run.attempt = tonumber(h[5] or 0)
  standing(run, h[2])
  return run, h[10]
end

-- What a queued or started event creates: thread, labels, task.
local function describe(run, extras)
  local changes = run.changes
  changes[#changes + 1] = 'start'
  changes[#changes + 1] = extras.start
  run.start = extras.start
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
  return active and active ~= run.id and active ~= ending and active or nil
end

-- The refusal of an ended run: with its last event's ID, which says when it ended.
local function closed(run)
  local tail = run.tail
  return 'closed 1 ' .. run.status .. ' ' .. tail
end

-- Whether nobody holds it in memory, and its body waits for the answer. Without an exec a run may wait otherwise: somebody outside says so.
local function is_parked(run)
  return run.status == 'waiting' and run.exec == '' and not run.woken and redis.call('HEXISTS', bodies, run.id) == 1
    and not redis.call('ZSCORE', delayed, run.id)
end

-- Whether a segment may be applied now: nil and the status after it, or the refusal. bounded: the backlog has limits for it.
local function judge(run, type, extras, bounded)
  if run.live and (run.exec ~= run.writer or run.writer == '') then
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
  if type == 'run.resumed' and is_parked(run) then
    if not extras.work or extras.task ~= redis.call('HGET', run.hash, 'task') then
      return illegal
    end
    status, run.woken = 'queued', true
  end
  if not run.status then
    local busy = other_active(run, extras)
    if busy then
      return 'busy 1 ' .. busy
    end
  end
  if bounded and not ENDS[type] and type ~= 'run.resumed' then
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

-- What a lifecycle event changes besides feed and log.
local function apply_lifecycle(run, type, extras, status, id, payload)
  local changes = run.changes
  local function set(field, value)
    changes[#changes + 1] = field
    changes[#changes + 1] = value
  end
  if not run.status then
    set('created', run.ms_text)
    run.created = run.ms_text
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
    local body = status == 'queued' and redis.call('HGET', bodies, run.id)
    if body then -- nobody holds it in memory: it runs again from its first line
      local queued, payload_of_it = string.match(body, '^[^\n]*\n([^\n]*)\n(.*)$')
      redis.call('XADD', extras.work, '*', 'r', run.id, 'i', queued, 'e', payload_of_it)
      redis.call('HDEL', bodies, run.id)
    end
  elseif type == 'run.failed' then
    set('error', extras.error)
  end
  if extras.nonce and extras.nonce ~= '' then
    run.attempt, run.exec = run.attempt + 1, whole(run.attempt + 1) .. '-' .. extras.nonce
    set('attempt', run.attempt)
    set('exec', run.exec)
    set('owner', extras.owner)
    run.owner = extras.owner
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
    if TERMINAL[status] and is_parked(run) then
      redis.call('HDEL', bodies, run.id)
    end
    set('status', status)
    run.status = status
    if TERMINAL[status] then
      set('ended', run.ms_text)
      run.finished = true
    else
      redis.call('ZADD', index, now, run.id)
    end
  end
end

-- Applies the events of a segment that are new. A lifecycle event is a segment of its own, so one judgement serves all.
-- Returns how many were applied, and the refusal of the next one if there is one.
local function apply(run, segment, status, first)
  local type, extras = segment.type, segment.extras
  local logged = is_logged(type)
  for i = first, segment.count do
    local payload = ARGV[segment.at + i - 1]
    if extras.nonce and extras.nonce ~= '' then
      payload = '"type":"run.started","attempt":' .. whole(run.attempt + 1) .. ',' .. payload
    end
    local id = add(run, payload, logged)
    if not id then
      return i - first, 'corrupt 1'
    end
    if status ~= run.status or string.sub(type, 1, 4) == 'run.' then
      apply_lifecycle(run, type, extras, status, id, payload)
    end
  end
  return segment.count - first + 1
end

-- Writes what was changed in the hash, trims the feed. position: nil for what has none.
local function keep(run, position)
  local changes = run.changes
  if position then
    changes[#changes + 1] = run.position
    changes[#changes + 1] = position
  end
  if run.first_id then
    changes[#changes + 1] = 'tail'
    changes[#changes + 1] = run.tail
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
    local h = redis.call('HMGET', run.hash, 'asks', 'thread')
    finish(run, { owner = run.owner, asks = h[1], thread = h[2] }, retain_ms, tombstone_ms)
  end
end

local function write_back(run, position)
  keep(run, position)
  if run.first_id then
    publish(run)
  end
end

-- A run.queued of a run that exists: the same start again, or another one. Nil where the run is new.
local function repeated_start(run, type, extras)
  if type ~= 'run.queued' or not run.status then
    return nil
  end
  return run.start == extras.start and 'duplicate' or 'exists 1'
end
