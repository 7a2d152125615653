-- Give dead letters of a group's reactions back: each event enters the log once more, for that group alone.
--
-- KEYS[1] meta          `g:<group>` what it bound
-- KEYS[2] log           facts and bound increments
-- KEYS[3] index         (these stand first in every script that writes to the log)
-- KEYS[4] owners
-- KEYS[5] deadlines
-- KEYS[6] delayed
-- KEYS[7] bodies
-- KEYS[8] dead          the group's letters
-- KEYS[9] lease         of an ordered group; absent for a shared one
-- ARGV[1] group
-- then the letters' entry IDs
-- Returns per letter "requeued", "gone" (somebody else requeued or purged it) or "unbound" (there is no such group any more: it stays)
-- Flags   none: refused before its first write when the server is out of memory
-- Holds   a letter is given back once; a second call writes nothing
-- @include log

local dead, lease = KEYS[8], KEYS[9]
local group = ARGV[1]
local is_bound = redis.call('HEXISTS', meta, 'g:' .. group) == 1
local answers = {}

local function requeue(entry)
  local letter = redis.call('XRANGE', dead, entry, entry)[1]
  if not letter then
    return 'gone'
  elseif not is_bound then
    return 'unbound'
  end
  local held = {}
  for i = 1, #letter[2], 2 do
    held[letter[2][i]] = letter[2][i + 1]
  end
  to_log('r', held['r'], 'i', held['i'], 'e', held['e'], 'g', group, 't', '0')
  redis.call('XDEL', dead, entry)
  redis.call('HDEL', lease, 'x:' .. held['r'])
  return 'requeued'
end

for i = 2, #ARGV do
  answers[#answers + 1] = requeue(ARGV[i])
end
return answers
