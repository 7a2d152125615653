-- A lease of an ordered group: which of its members reads a partition, and what is known of the entries in its hands.
--
-- KEYS[1] meta          claimed and claims_quiet
-- KEYS[2] lease         owner, until, token `<number>-<nonce>`, last (entry settled last under it), lost (the owner before went without
--                       giving it back), `t:<entry>`: its tries, `x:<run>`: a run that was stopped
-- ARGV[1] verb          `take`, `renew`, `give`, or `note` the tries of an entry
-- ARGV[2] member        who takes or has it
-- ARGV[3] token         that the member has; a nonce where it takes
-- ARGV[4] term_ms       one visibility timeout
-- ARGV[5] entry         of note, else ""
-- ARGV[6] tries         of note, else 0
-- Returns {"taken", token, "given" or "lost", stopped run…}, {"held", owner, until}, {"quiet", ms} (it has run out, but perhaps nobody
--   could renew: it is left alone for so long), {"renewed", last}, {"given"}, {"noted"}, or {"fenced"}: somebody else has it. Times are the
--   server's
-- Flags   allow-oom
-- Holds   a token is never given twice, and is none any more once the lease was given back; a take made again under its nonce answers
--   the same, and its term begins anew
-- @include clock
-- @include quiet
-- @include feed_id

local meta, lease = KEYS[1], KEYS[2]
local verb, member, token, term_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local now = clock()

local function taken(given, lost)
  local answer = { 'taken', given, lost and 'lost' or 'given' }
  local fields = redis.call('HGETALL', lease)
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 2) == 'x:' then
      answer[#answer + 1] = string.sub(fields[i], 3)
    end
  end
  return answer
end

local function take(known)
  local owner, ends, number = known[1], tonumber(known[2] or 0), split_id(known[3] or '0-')
  if owner and known[3] == number .. '-' .. token then
    redis.call('HSET', lease, 'until', whole(now + term_ms))
    return taken(known[3], known[4])
  end
  if owner and ends > now then
    if ends > now + term_ms then -- the clock went back
      ends = now + term_ms
      redis.call('HSET', lease, 'until', whole(ends))
    end
    return { 'held', owner, ends }
  end
  if owner and note_claim(meta, now, term_ms) then
    return { 'quiet', term_ms }
  end
  local given = whole(number + 1) .. '-' .. token
  redis.call('HSET', lease, 'owner', member, 'until', whole(now + term_ms), 'token', given, 'last', '')
  if owner then
    redis.call('HSET', lease, 'lost', '1')
  else
    redis.call('HDEL', lease, 'lost')
  end
  return taken(given, owner)
end

local verbs = {}

function verbs.renew()
  redis.call('HSET', lease, 'until', whole(now + term_ms))
  return { 'renewed', redis.call('HGET', lease, 'last') or '' }
end

function verbs.give(known)
  redis.call('HDEL', lease, 'owner', 'until', 'lost')
  redis.call('HSET', lease, 'token', whole(split_id(known[3])) .. '-', 'last', '')
  return { 'given' }
end

function verbs.note()
  redis.call('HSET', lease, 't:' .. ARGV[5], ARGV[6])
  return { 'noted' }
end

local known = redis.call('HMGET', lease, 'owner', 'until', 'token', 'lost')
if verb == 'take' then
  return take(known)
elseif known[3] ~= token then
  return { 'fenced' }
end
return verbs[verb](known)
