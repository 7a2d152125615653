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

local function whole(n)
  return n < 1e14 and n .. '' or string.format('%.0f', n)
end
