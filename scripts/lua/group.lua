-- Tell what a process's reactions bind: all members of a group bind together what any of them handles.
--
-- KEYS[1] groups        hash: group, its mode
-- KEYS[2] group         hash: mode, behind, start, created, version, told (when any member told last), `b:<binding>`: when one told it
-- ARGV[1] name
-- ARGV[2] mode          `shared` or `ordered`
-- ARGV[3] when_behind   `detach` or `refuse`
-- ARGV[4] start         `first` or `now`: where the group begins when it is new
-- ARGV[5] forget_ms     after which a binding is dropped that nobody tells any more, while others are told
-- then the bindings: a pattern, or a pattern, a space and the labels it wants as JSON
-- Returns {"told", version, start, when_behind, every binding…}, or {"other", mode} for a group that is known in another mode: nothing
--   is changed. Times are the server's
-- Flags   allow-oom
-- Holds   the version rises with each change, also after the record was lost; whoever comes first after a silence, or a jump of the
--   clock, does not take away what the others are about to tell
-- @include clock

local groups, group = KEYS[1], KEYS[2]
local name, mode, behind, start, forget_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local now = clock()
local known = redis.call('HMGET', group, 'mode', 'version', 'behind', 'start', 'told')
local grace_ms = forget_ms / 12 -- five minutes of an hour; members tell each minute

if known[1] and known[1] ~= mode then
  return { 'other', known[1] }
end
local changed = not known[1] or known[3] ~= behind
local told_last, told = tonumber(known[5] or now), {}
local was_silent = now - told_last > grace_ms or told_last > now
for i = 6, #ARGV do
  told['b:' .. ARGV[i]] = true
  changed = redis.call('HSET', group, 'b:' .. ARGV[i], now) == 1 or changed
end
local bindings = {}
local fields = redis.call('HGETALL', group)
for i = 1, #fields, 2 do
  local field = fields[i]
  if string.sub(field, 1, 2) == 'b:' then
    local at = tonumber(fields[i + 1])
    if was_silent and not told[field] then
      at = math.min(math.max(at, now - forget_ms + grace_ms), now)
      redis.call('HSET', group, field, at)
    end
    if not told[field] and now - at > forget_ms then
      redis.call('HDEL', group, field)
      changed = true
    else
      bindings[#bindings + 1] = string.sub(field, 3)
    end
  end
end
redis.call('HSET', group, 'told', now)
local version = tonumber(known[2] or 0)
if changed then
  version = math.max(version + 1, now)
  redis.call('HSET', group, 'mode', mode, 'behind', behind, 'version', string.format('%.0f', version))
  redis.call('HSETNX', group, 'start', start)
  redis.call('HSETNX', group, 'created', now)
  redis.call('HSET', groups, name, mode)
end
table.sort(bindings)
return { 'told', string.format('%.0f', version), known[4] or start, behind, unpack(bindings) }
