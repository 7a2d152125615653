-- Take a group away from a partition: nothing of it is left but its dead letters. With the last group the log goes.
--
-- KEYS[1] meta          groups (count), `b:<type>` and `b:*` (bindings of increments, counted); `g:`, `w:`, `cut:` and `reset:<group>`
-- KEYS[2] log           facts and bound increments of the partition's runs
-- KEYS[3] delayed       retries by due time
-- KEYS[4] bodies        their events
-- KEYS[5] lease         of an ordered group
-- ARGV[1] group
-- Returns {"unbound", how many entries were pending, how many retries waited} or {"unknown"}
-- Flags   none
-- Holds   a group is counted off once; a second call writes nothing
-- @include drop_retries

local meta, log, delayed, bodies, lease = unpack(KEYS, 1, 5)
local group = ARGV[1]
local bound = redis.call('HGET', meta, 'g:' .. group)

local function pending_of()
  local told = redis.pcall('XPENDING', log, group)
  return told.err and 0 or told[1]
end

local pending = pending_of()
local destroyed = redis.call('EXISTS', log) == 1 and redis.call('XGROUP', 'DESTROY', log, group) == 1
if not bound and not destroyed then
  return { 'unknown' }
end
local dropped = drop_retries(meta, delayed, bodies, group)
redis.call('UNLINK', lease)
redis.call('HDEL', meta, 'g:' .. group, 'w:' .. group, 'cut:' .. group, 'reset:' .. group)
if bound then
  for type in string.gmatch(string.match(bound, '^%S+ %S+ ?(.*)$') or '', '%S+') do
    if redis.call('HINCRBY', meta, 'b:' .. type, -1) <= 0 then
      redis.call('HDEL', meta, 'b:' .. type)
    end
  end
  if redis.call('HINCRBY', meta, 'groups', -1) <= 0 then
    redis.call('HDEL', meta, 'groups')
    redis.call('UNLINK', log)
  end
end
return { 'unbound', pending, dropped }
