-- An event enters its run's feed; told to followers at the end of the call.
--
-- standing(run, tail)       the run with seq, ms and tail (its ID) of its last event; run: {id, hash, feed, channel}
-- add(run, payload, logged) the new feed ID, or nil if hash and feed do not belong together: it is the first write of an event,
--                           and alone can fail on data
-- publish(run)              what was added, as one message
-- publish_later(run), publish_all()   the same for many runs, most of which nobody follows
-- @include log
-- @include portions

local function standing(run, tail)
  run.seq, run.ms = split_id(tail)
  run.tail = tail or ''
  if run.ms <= now then
    run.ms, run.ms_text = now, now_text
  else
    run.ms_text = whole(run.ms)
  end
  return run
end

local function add(run, payload, logged)
  local id = whole(run.seq + 1) .. '-' .. run.ms_text
  -- A hash without feed finds no stream; one that fell behind has too small an ID.
  local added
  if run.seq == 0 then
    if redis.call('EXISTS', run.feed) == 1 then
      return nil
    end
    added = redis.pcall('XADD', run.feed, id, 'e', payload)
  else
    added = redis.pcall('XADD', run.feed, 'NOMKSTREAM', id, 'e', payload)
  end
  if not added or added.err then
    return nil
  end
  run.seq, run.tail = run.seq + 1, id
  if logged then
    to_log('r', run.id, 'i', id, 'e', payload)
  end
  if run.first_id then
    run.published[#run.published + 1] = payload
  else
    run.first_id, run.published = id, { payload }
  end
  return id
end

local function publish(run)
  redis.call('SPUBLISH', run.channel, run.first_id .. '\n' .. table.concat(run.published, '\n'))
end

local told = {}

local function publish_later(run)
  told[#told + 1] = run
end

-- Asking how many follow costs a quarter of telling nobody. Followers are connected to this very server, the primary.
local function publish_all()
  local channels, before_them = {}, 0
  for i, run in ipairs(told) do
    channels[i] = run.channel
  end
  in_portions(channels, 1, function(...)
    local followers = redis.call('PUBSUB', 'SHARDNUMSUB', ...)
    for i = 1, #followers / 2 do
      if followers[2 * i] > 0 then
        publish(told[before_them + i])
      end
    end
    before_them = before_them + #followers / 2
  end)
  told = {}
end
