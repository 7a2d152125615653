-- Make new runs of dead letters of one partition: each in place of its letter, or not at all.
--
-- KEYS[1] meta          layout, bindings
-- KEYS[2] log           facts and bound increments, while there is a group
-- KEYS[3] index         runs by last lifecycle change
-- KEYS[4] owners        runs executed without a worker, by owner_until
-- KEYS[5] deadlines     when `expire` must look at a run
-- KEYS[6] delayed       runs queued for later, by due time
-- KEYS[7] bodies        their work entries
-- then for each letter: its stream; the new run's hash, feed, channel, thread; work:<task>
-- ARGV[1] layout        as the caller knows it
-- ARGV[2] feed_limit    events a run
-- ARGV[3] log_limit     entries
-- ARGV[4] work_limit    entries a task, and delayed starts of the partition
-- ARGV[5] retain_ms     how long a feed stays after the end
-- ARGV[6] tombstone_ms  how much longer the hash stays
-- ARGV[7] silent_ms     after which a run that nobody executes is ended; 0: never
-- ARGV[8] term_ms       of an owner
-- ARGV[9] bindings      how many binding fields follow; a run.queued has none
-- then for each letter: its entry ID, the new run, 1, and the run.queued as append.lua has it, its payload the letter's
-- Returns per letter "requeued", "gone" (somebody else requeued or purged it), or why it stays: "busy 1 <run>" (thread),
--   "full 1 <group or task>", "exists 1", "corrupt 1". Times are the server's
-- Flags   none: refused before its first write when the server is out of memory
-- Holds   a letter becomes one run; a second call answers requeued for its own runs and writes nothing
-- @include appending

local answers = {}

local function requeue(dead)
  local entry, id = take(2)
  local run = load_run(id, 'status')
  take(1) -- one segment
  local segment = take_segment()
  local again = repeated_start(run, segment.type, segment.extras)
  if again then
    return again == 'duplicate' and 'requeued' or again
  elseif #redis.call('XRANGE', dead, entry, entry) == 0 then
    return 'gone'
  end
  local refusal, status = judge(run, segment.type, segment.extras, true)
  if not refusal then
    refusal = select(2, apply(run, segment, status, 1))
  end
  if refusal then
    return refusal
  end
  redis.call('XDEL', dead, entry)
  write_back(run)
  return 'requeued'
end

while at <= #ARGV do
  key = key + 1
  answers[#answers + 1] = requeue(KEYS[key - 1])
end
return answers
