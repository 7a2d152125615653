-- How far a log may be cut: everything that every group has both been given and acknowledged.
--
-- positions(log)             {name, id} of each group, slowest first; id is the first entry that it still needs
-- before(a, b)               whether entry ID a is smaller than b

local function entry_parts(id)
  local dash = string.find(id, '-', 1, true)
  return tonumber(string.sub(id, 1, dash - 1)), tonumber(string.sub(id, dash + 1))
end

local function before(a, b)
  local a_ms, a_n = entry_parts(a)
  local b_ms, b_n = entry_parts(b)
  return a_ms < b_ms or (a_ms == b_ms and a_n < b_n)
end

local function positions(log)
  local found = {}
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', log)) do
    local group = {}
    for i = 1, #info, 2 do
      group[info[i]] = info[i + 1]
    end
    local needs
    if group['pending'] > 0 then
      needs = redis.call('XPENDING', log, group['name'])[2]
    else
      local ms, n = entry_parts(group['last-delivered-id'])
      needs = string.format('%.0f-%.0f', ms, n + 1)
    end
    found[#found + 1] = { name = group['name'], id = needs }
  end
  table.sort(found, function(a, b)
    return before(a.id, b.id)
  end)
  return found
end
