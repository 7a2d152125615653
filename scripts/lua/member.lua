-- Tell that a member of an ordered group lives, or that it leaves; and who else does.
--
-- KEYS[1] members       hash: member, `<since> <seen> <what it handles>`
-- ARGV[1] verb          `tell` or `leave`
-- ARGV[2] member
-- ARGV[3] handles       its bindings as JSON; read by members alone
-- ARGV[4] forget_ms     after which one that says nothing more is forgotten
-- Returns {now, member, since, seen, handles, …} in the order in which they joined. Times are the server's
-- Flags   allow-oom
-- Holds   one that comes back after it was forgotten, or left, joins anew
-- @include clock
-- @include feed_id

local members = KEYS[1]
local verb, member, handles, forget_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local now = clock()
local FORMAT = '^(%d+) (%d+) (.*)$'

local function silent(seen)
  return now - tonumber(seen) > forget_ms or tonumber(seen) - now > forget_ms -- the clock went back
end

local known = redis.call('HGET', members, member)
local since, seen = string.match(known or '', FORMAT)
if verb == 'leave' then
  redis.call('HDEL', members, member)
else
  if not since or silent(seen) then
    since = whole(now)
  end
  redis.call('HSET', members, member, since .. ' ' .. whole(now) .. ' ' .. handles)
end
local found = {}
local fields = redis.call('HGETALL', members)
for i = 1, #fields, 2 do
  local joined, told, what = string.match(fields[i + 1], FORMAT)
  if not joined or silent(told) then
    redis.call('HDEL', members, fields[i])
  else
    found[#found + 1] = { fields[i], joined, told, what }
  end
end
table.sort(found, function(a, b)
  if a[2] ~= b[2] then
    return tonumber(a[2]) < tonumber(b[2])
  end
  return a[1] < b[1]
end)
local answer = { whole(now) }
for _, one in ipairs(found) do
  for part = 1, 4 do
    answer[#answer + 1] = one[part]
  end
end
return answer
