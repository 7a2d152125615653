-- Whether nobody may claim yet, since nobody could renew.
--
-- note_claim(meta, now, idle_ms)
--   Notes in `claimed` that somebody claims here. A gap in these notes, or one of a time to come, means that nobody could renew or
--   that the clock jumped: then all entries look idle, and their consumers get one visibility timeout to renew them, from
--   `claims_quiet` on
-- Returns whether that time has not passed yet
-- begin_idle_time(stream, group, entry, owner, idle)
--   Delivered at a time to come, before the clock jumped back: its idle time would stand still until then

local function note_claim(meta, now, idle_ms)
  local known = redis.call('HMGET', meta, 'claimed', 'claims_quiet')
  local claimed, quiet = tonumber(known[1] or 0), tonumber(known[2] or now)
  if claimed > now or now - claimed > idle_ms / 2 then
    quiet = now
  end
  redis.call('HSET', meta, 'claimed', now, 'claims_quiet', quiet)
  return now - quiet < idle_ms
end

local function begin_idle_time(stream, group, entry, owner, idle)
  if idle <= 0 then
    redis.call('XCLAIM', stream, group, owner, 0, entry, 'IDLE', 0, 'JUSTID')
  end
end
