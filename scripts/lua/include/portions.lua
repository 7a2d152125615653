-- Many values as arguments of several commands: Lua's stack has room for some thousand.
--
-- in_portions(values, first, send)   calls send with the values from that place on, 1000 at once

local function in_portions(values, first, send)
  for from = first, #values, 1000 do
    send(unpack(values, from, math.min(from + 999, #values)))
  end
end
