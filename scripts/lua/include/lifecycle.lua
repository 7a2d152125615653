-- The lifecycle of a run; processor/core/lifecycle.py is the same table, and a test runs both over all pairs.
--
-- next_status(status, type, live)   status false for an unknown run, never a terminal one
-- Returns the status after the event, or nil if the event is illegal

local ENDS = { ['run.finished'] = 'succeeded', ['run.failed'] = 'failed', ['run.cancelled'] = 'cancelled' }
local TERMINAL = { succeeded = true, failed = true, cancelled = true }

local function next_status(status, type, live)
  if ENDS[type] then
    return status and ENDS[type] or nil
  elseif type == 'run.queued' then
    return not status and 'queued' or nil
  elseif type == 'run.started' then
    return (not status or status == 'queued') and 'running' or nil
  elseif type == 'run.waiting' then
    return (status == 'running' or (live and status == 'waiting')) and 'waiting' or nil
  elseif type == 'run.resumed' then
    return status == 'waiting' and 'running' or nil
  elseif type == 'run.retrying' then
    return live and (status == 'running' or status == 'waiting') and 'queued' or nil
  elseif type == 'run.cancel_requested' then
    return nil
  end
  return status or 'running'
end
