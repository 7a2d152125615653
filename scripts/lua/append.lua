-- Append events of one partition, from outside or live: each is applied whole or not at all.
--
-- KEYS[1] meta          layout, bindings
-- KEYS[2] log           facts and bound increments, while there is a group
-- KEYS[3] index         runs by last lifecycle change
-- KEYS[4] owners        runs executed without a worker, by owner_until
-- KEYS[5] deadlines     when `expire` must look at a run
-- KEYS[6] delayed       runs queued for later, by due time
-- KEYS[7] bodies        their work entries
-- then for each batch: its run's hash, feed, channel, thread; behind them work:<task> for each run.queued in it, and for each
--   run.resumed that names its task
-- ARGV[1] layout        as the caller knows it
-- ARGV[2] feed_limit    events a run
-- ARGV[3] log_limit     entries
-- ARGV[4] work_limit    entries a task, and delayed starts of the partition
-- ARGV[5] retain_ms     how long a feed stays after the end
-- ARGV[6] tombstone_ms  how much longer the hash stays
-- ARGV[7] silent_ms     after which a run that nobody executes is ended; 0: never
-- ARGV[8] term_ms       of an owner
-- ARGV[9] bindings      how many binding fields follow: `b:<type>` of each type of increment in the call
-- then for each batch: run, writer (`p:<producer>`, `c:<checkpoint>` or `x:<exec>`), prev, number of its first event, how many
--   segments; numbers are consecutive; without segments it asks what is stored for the writer
-- then for each segment: type, how many events, what a lifecycle type brings (below), the payloads
--   run.queued   task, start, thread, delay in ms, how many labels, names and values
--   run.started  nonce, owner, start, task, thread, how many labels, names and values; with a nonce the payload is what follows
--                `"attempt":<n>,`, and it is the only event of its batch
--   run.waiting  ask        run.resumed  ask, value, task or ""        run.failed  error
-- Returns {"topology", layout of the partition or ""}: nothing applied; or {"ok", list per batch of outcomes}:
--   "appended <count> <first ID>[ <attempt>]", "duplicate <count> <first ID or ->[ <attempt>]", "hole <count> <stored>", "stale 1",
--   "closed 1 <status> <tail>", "illegal 1 <from> <type>", "busy 1 <run>", "full 1 <group or task>", "exists 1", "corrupt 1",
--   "stored <number>"; last in a live batch: "cancelling" while a cancel is asked for. Times are the server's.
-- Flags   none: refused before its first write when the server is out of memory
-- Holds   a call executed again changes nothing; a refused event takes no number; events behind a refused one are refused `hole`
-- @include appending

local PRODUCERS, PRODUCER_SILENT_MS = 64, 600000

if known[1] ~= layout then
  return { 'topology', known[1] or '' }
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

local function load_batch(id, writer)
  local live = string.sub(writer, 1, 1) == 'x'
  local position = live and 'exec_pos' or writer
  local run, at_last = load_run(id, position)
  run.live, run.writer, run.position = live, string.sub(writer, 3), position
  run.is_current = not live or (run.exec == run.writer and run.writer ~= '')
  run.stored, run.first_number, run.first_seq = 0, 0, 0
  run.has_position = at_last and true
  if at_last and run.is_current then
    local stored, first_number, first_seq = string.match(at_last, '^(%d+) (%d+) (%d+)')
    run.stored, run.first_number, run.first_seq = tonumber(stored), tonumber(first_number), tonumber(first_seq)
  end
  return run
end

-- What is stored for the writer now; producers silent for long make room for a new one.
local function position_of(run)
  local position = whole(run.stored) .. ' ' .. whole(run.first_number) .. ' ' .. whole(run.first_seq)
  if run.live then
    return position
  end
  if not run.has_position then
    forget_producers(run)
  end
  return position .. ' ' .. now_text
end

-- Events of a segment that are new and consecutive: applied as far as they may be. Returns how many were, and the refusal.
local function append_segment(run, segment, first, number, is_first, outcomes)
  local extras, first_seq = segment.extras, run.seq + 1
  local refusal, status = judge(run, segment.type, extras, not run.live)
  if refusal then
    return 0, refusal
  end
  local applied
  applied, refusal = apply(run, segment, status, first)
  if applied == 0 then
    return 0, refusal
  end
  if run.first_seq + number - run.first_number ~= first_seq then
    run.first_number, run.first_seq = number, first_seq
  elseif is_first then -- a body that begins with duplicates is one call
    run.first_seq = run.first_seq + (run.known or number) - run.first_number
    run.first_number = run.known or number
  end
  local attempt = extras.nonce and extras.nonce ~= '' and ' ' .. whole(run.attempt) or ''
  outcomes[#outcomes + 1] = 'appended ' .. whole(applied) .. ' ' .. whole(first_seq) .. '-' .. run.ms_text .. attempt
  run.stored = number + applied - 1
  return applied, refusal
end

local function append_batch()
  local id, writer, prev, number, segments = take(5)
  local run = load_batch(id, writer)
  prev, number, segments = tonumber(prev), tonumber(number), tonumber(segments)
  if segments == 0 then
    if not run.is_current then
      return { TERMINAL[run.status] and closed(run) or 'stale 1' }
    end
    return { 'stored ' .. whole(run.stored) }
  end
  local outcomes, refused, taken = {}, false, 0
  for _ = 1, segments do
    local segment = take_segment()
    local extras, count, first = segment.extras, segment.count, 1
    if not refused and number <= run.stored and run.is_current then
      local seen = math.min(count, run.stored - number + 1)
      local begun = (extras.nonce or '') ~= '' and run.exec and string.sub(run.exec, -#extras.nonce) == extras.nonce
      tell_duplicates(run, outcomes, number, seen, begun and ' ' .. whole(run.attempt) or '')
      first, number, prev = seen + 1, number + seen, number + seen - 1
    end
    if not refused and first <= count then
      local again = repeated_start(run, segment.type, extras)
      if again == 'duplicate' then
        outcomes[#outcomes + 1] = 'duplicate 1 1-' .. run.created
        if prev == run.stored then -- else something before it was lost, which the next event is told
          run.stored, run.first_number, run.first_seq, taken = number, number, 1, taken + 1
        end
        first, number, prev = first + 1, number + 1, number
      elseif again then
        refused = again
      elseif prev ~= run.stored and run.is_current then
        refused = 'hole'
      else
        local applied, refusal = append_segment(run, segment, first, number, taken == 0, outcomes)
        taken, first, number, refused = taken + applied, first + applied, number + applied, refusal
        prev = applied > 0 and number - 1 or prev
      end
      if refused and refused ~= 'hole' then
        outcomes[#outcomes + 1] = refused
        first = first + 1
      end
    end
    if refused and first <= count then
      outcomes[#outcomes + 1] = 'hole ' .. whole(count - first + 1) .. ' ' .. whole(run.stored)
    end
  end
  if taken > 0 then
    write_back(run, position_of(run))
  end
  if run.live and run.cancel and not TERMINAL[run.status] then
    outcomes[#outcomes + 1] = 'cancelling'
  end
  return outcomes
end

local replies = {}
while at <= #ARGV do
  replies[#replies + 1] = append_batch()
end
write_ends()
return { 'ok', replies }
