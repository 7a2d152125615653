-- Take settled events of another partition into this one, in the order of its outbox.
--
-- KEYS[1] meta          layout, bindings
-- KEYS[2] log           facts and bound increments, while there is a group
-- KEYS[3] index         runs by last lifecycle change
-- KEYS[4] owners        runs executed without a worker, by owner_until
-- KEYS[5] deadlines     when `expire` must look at a run
-- KEYS[6] delayed       runs queued for later, by due time
-- KEYS[7] bodies        their work entries
-- KEYS[8] marks         per source, the last outbox entry taken from it
-- then for each outbox entry the keys of its run, as append.lua has them
-- ARGV[1] layout        as the caller knows it
-- ARGV[2] feed_limit    events a run
-- ARGV[3] log_limit     entries
-- ARGV[4] work_limit    entries a task, and delayed starts of the partition
-- ARGV[5] retain_ms     how long a feed stays after the end
-- ARGV[6] tombstone_ms  how much longer the hash stays
-- ARGV[7] silent_ms     after which a run that nobody executes is ended; 0: never
-- ARGV[8] term_ms       of an owner
-- ARGV[9] bindings      how many binding fields follow: `b:<type>` of each type of increment in the call
-- then the source partition, and for each outbox entry: the entry before it for this partition, its ID, run, how many segments, and each
--   as append.lua has it
-- Returns per entry "taken", "duplicate", "hole <mark>" (nothing behind it is looked at), or "dropped <outcome>" for events that the run
--   does not take any more (the mark moves on: their handler has been settled). Times are the server's
-- Flags   none: refused before its first write when the server is out of memory
-- Holds   an entry is taken only behind the one before it, so each once and in order; a call executed again changes nothing
-- @include safe_point
-- @include appending

local marks = KEYS[8]
key = 9
local source = take(1)
local first_mark = redis.call('HGET', marks, source) or '0-0'
local mark = first_mark
local answers = {}

local function take_entry()
  local run = load_run(take(1), 'status')
  local refusal
  for _ = 1, tonumber(take(1)) do
    local segment, status = take_segment(), nil
    local again = not refusal and repeated_start(run, segment.type, segment.extras)
    if not refusal and again ~= 'duplicate' then
      refusal = again or nil
      if not refusal then
        refusal, status = judge(run, segment.type, segment.extras, false)
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

-- What was taken before: only its arguments and keys are passed over.
local function skip_entry()
  take(1)
  key = key + 4
  for _ = 1, tonumber(take(1)) do
    take_segment()
  end
end

while at <= #ARGV do
  local before_it, id = take(2)
  if not before(mark, id) then
    answers[#answers + 1] = 'duplicate'
    skip_entry()
  elseif before_it ~= mark then
    answers[#answers + 1] = 'hole ' .. mark
    break
  else
    local refusal = take_entry()
    answers[#answers + 1] = refusal and 'dropped ' .. refusal or 'taken'
    mark = id
  end
end
if mark ~= first_mark then
  redis.call('HSET', marks, source, mark)
end
write_ends()
return answers
