-- Take settled events of another partition, or entries of an inlet, into this one, in the order of their source.
--
-- KEYS[1] meta          layout, bindings
-- KEYS[2] log           facts and bound increments, while there is a group
-- KEYS[3] index         runs by last lifecycle change
-- KEYS[4] owners        runs executed without a worker, by owner_until
-- KEYS[5] deadlines     when `expire` must look at a run
-- KEYS[6] delayed       runs queued for later, by due time
-- KEYS[7] bodies        their work entries
-- KEYS[8] marks         per source, the last entry taken from it
-- then for each entry the keys of its run, as append.lua has them
-- ARGV[1] layout        as the caller knows it
-- ARGV[2] feed_limit    events a run
-- ARGV[3] log_limit     entries
-- ARGV[4] work_limit    entries a task, and delayed starts of the partition
-- ARGV[5] retain_ms     how long a feed stays after the end
-- ARGV[6] tombstone_ms  how much longer the hash stays
-- ARGV[7] silent_ms     after which a run that nobody executes is ended; 0: never
-- ARGV[8] term_ms       of an owner
-- ARGV[9] bindings      how many binding fields follow: `b:<type>` of each type of increment in the call
-- then the source: a partition, or `in:<inlet>`; and for each entry: the one before it for this partition, its ID, run, how many segments,
--   and each as append.lua has it
-- Returns per entry "taken", "duplicate", "hole <mark>" (nothing behind it is looked at), or "dropped <outcome>" for events that the run
--   does not take any more (the mark moves on: their handler has been settled). What an inlet sends comes from outside, so its backlog has
--   limits: "full 1 <group or task>" or "refused <outcome>", nothing of the entry is applied and nothing behind it is looked at; and
--   "topology <layout of the partition>" alone if it is another one. Times are the server's
-- Flags   none: refused before its first write when the server is out of memory
-- Holds   an entry is taken only behind the one before it, so each once and in order; a call executed again changes nothing
-- @include safe_point
-- @include appending

local marks = KEYS[8]
key = 9
local source = take(1)
local from_outside = string.sub(source, 1, 3) == 'in:'
local mark = redis.call('HGET', marks, source) or '0-0'
local answers = {}

if known[1] ~= layout then -- composed before the namespace was made anew: its marks would be those of entries that are gone
  return { 'topology ' .. (known[1] or '') }
end

-- Why the events of an entry would not all be taken; nil if they would. Nothing is applied.
local function foreseen(run, segments)
  local status, ask, start, woken = run.status, run.ask, run.start, run.woken
  local refusal, after
  for _, segment in ipairs(segments) do
    local type, extras = segment.type, segment.extras
    local again = repeated_start(run, type, extras)
    if again ~= 'duplicate' then
      refusal = again
      if not refusal then
        refusal, after = judge(run, type, extras, true)
      end
      if refusal then
        break
      end
      run.status, run.start = after, extras.start or run.start
      if type == 'run.waiting' or type == 'run.resumed' then
        run.ask = type == 'run.waiting' and extras.ask or ''
      end
    end
  end
  run.status, run.ask, run.start, run.woken = status, ask, start, woken
  return refusal
end

-- Applies the segments of an entry up to the first refusal, which is returned. bounded: as judge has it.
local function take_entry(run, segments, bounded)
  local refusal
  for _, segment in ipairs(segments) do
    local status
    local again = not refusal and repeated_start(run, segment.type, segment.extras)
    if not refusal and again ~= 'duplicate' then
      refusal = again or nil
      if not refusal then
        refusal, status = judge(run, segment.type, segment.extras, bounded)
      end
      if not refusal then
        local _, corrupt = apply(run, segment, status, 1)
        refusal = corrupt
      end
    end
  end
  if run.first_id then
    write_back(run)
  end
  return refusal
end

local function take_segments()
  local segments = {}
  for i = 1, tonumber(take(1)) do
    segments[i] = take_segment()
  end
  return segments
end

while at <= #ARGV do
  local before_it, id = take(2)
  if not before(mark, id) then
    answers[#answers + 1] = 'duplicate'
    take(1) -- only its arguments and keys are passed over
    key = key + 4
    take_segments()
  elseif before_it ~= mark then
    answers[#answers + 1] = 'hole ' .. mark
    break
  else
    local run = load_run(take(1), 'status')
    local segments = take_segments()
    local several = #segments > 1
    local refusal = from_outside and several and foreseen(run, segments) or nil
    if not refusal then
      refusal = take_entry(run, segments, from_outside and not several)
    end
    if refusal and from_outside and not run.first_id then -- nothing of it was applied
      answers[#answers + 1] = string.sub(refusal, 1, 5) == 'full ' and refusal or 'refused ' .. refusal
      break
    end
    redis.call('HSET', marks, source, id) -- at once: if a later entry stops the script, this one is not applied again
    answers[#answers + 1] = refusal and 'dropped ' .. refusal or 'taken'
    mark = id
  end
end
write_ends()
return answers
