-- Feed IDs `<seq>-<ms>` as two numbers.
--
-- split_id(id)          0, 0 for false
-- whole(n)              an integer as text; below 1e14 Lua's own form is exact and cheaper than format

local function split_id(id)
  if not id then
    return 0, 0
  end
  local dash = string.find(id, '-', 1, true)
  return tonumber(string.sub(id, 1, dash - 1)), tonumber(string.sub(id, dash + 1))
end

local smalls = {} -- positions, attempts, tries: the same few all through a call, and a number's text costs 2,000 instructions
local function whole(n)
  local text = smalls[n]
  if text then
    return text
  end
  text = n < 1e14 and n .. '' or string.format('%.0f', n)
  if n < 100 then
    smalls[n] = text
  end
  return text
end
