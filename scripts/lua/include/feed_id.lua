-- Feed IDs `<seq>-<ms>` as two numbers.
--
-- split_id(id)          0, 0 for false
-- whole(n)              an integer of zero or more as text; below 1e14 Lua's own form is exact and cheaper than format

local function split_id(id)
  if not id then
    return 0, 0
  end
  local dash = string.find(id, '-', 1, true)
  return tonumber(string.sub(id, 1, dash - 1)), tonumber(string.sub(id, dash + 1))
end

-- A number's text costs as much as a small command, so the two last digits are cut out of a text, and what stands before them is kept:
-- numbers of a call are the same few, or follow each other.
local DIGITS = '0001020304050607080910111213141516171819202122232425262728293031323334353637383940414243444546474849'
  .. '5051525354555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899'
local hundreds = {}
local function whole(n)
  if n >= 1e14 then
    return string.format('%.0f', n)
  end
  local rest = n % 100
  if n < 100 then
    return string.sub(DIGITS, rest < 10 and 2 * rest + 2 or 2 * rest + 1, 2 * rest + 2)
  end
  local above = (n - rest) / 100
  local text = hundreds[above]
  if not text then
    text = above .. ''
    hundreds[above] = text
  end
  return text .. string.sub(DIGITS, 2 * rest + 1, 2 * rest + 2)
end
