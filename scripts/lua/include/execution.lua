-- A work entry whose execution is over, or never began.
--
-- acknowledge(work, entry)        drop it from the pending list and delete it, at the end of the call
-- give_back(run, work, body)      its body becomes a work entry again; body: {queued ID, payload}
-- put_off(run, body, delay_ms)    or waits in `delayed`; no delay: until somebody answers it
-- bury(run, dead, body, failed, dead_limit)   or becomes a dead letter; failed: payload of the run.failed
-- touch(run)                      its lifecycle changed and it goes on
-- write_entries()                 once at the end of a call
-- @include partition

local GROUP = 'workers'
local acknowledged, touched = {}, {}

local function acknowledge(work, entry)
  local entries = acknowledged[work]
  if entries then
    entries[#entries + 1] = entry
  else
    acknowledged[work] = { entry }
  end
end

local function give_back(run, work, body)
  redis.call('XADD', work, '*', 'r', run.id, 'i', body[1], 'e', body[2])
end

local function put_off(run, body, delay_ms)
  redis.call('HSET', bodies, run.id, run.id .. '\n' .. body[1] .. '\n' .. body[2])
  if delay_ms then
    redis.call('ZADD', delayed, now + delay_ms, run.id)
  end
end

local function bury(run, dead, body, failed, dead_limit)
  redis.call('XADD', dead, 'MAXLEN', '~', dead_limit, '*', 'r', run.id, 'i', body[1], 'e', body[2], 'f', failed)
end

local function touch(run)
  touched[#touched + 1] = now_text
  touched[#touched + 1] = run.id
end

local function write_entries()
  for work, entries in pairs(acknowledged) do
    redis.call('XACK', work, GROUP, unpack(entries))
    redis.call('XDEL', work, unpack(entries))
  end
  if #touched > 0 then
    redis.call('ZADD', index, unpack(touched))
  end
end
