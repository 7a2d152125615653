-- The partition's log: facts and bound increments of its runs, each under the ID `<ms>-<number>`.
--
-- to_log(field, value, …)   adds an entry. Numbers count the entries from 1 without holes, so that between two of them lie as many
--                           entries as the difference of their numbers says, whatever was cut meanwhile
-- @include partition
-- @include feed_id

local log_ms = now_text

local function to_log(...)
  local number = redis.call('HINCRBY', meta, 'logged', 1)
  local added = redis.pcall('XADD', log, log_ms .. '-' .. whole(number), ...)
  if type(added) == 'string' then
    return
  end
  -- The clock went back, or the count was lost: behind the last entry.
  local info = redis.call('XINFO', 'STREAM', log)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      local ms, last = split_id(info[i + 1])
      log_ms = whole(math.max(ms, now))
      if last >= number then
        number = last + 1
        redis.call('HSET', meta, 'logged', number)
      end
    end
  end
  redis.call('XADD', log, log_ms .. '-' .. whole(number), ...)
end
