-- KEYS processing lists of swept workers. The positions (from 1) of those that are not empty.
local found = {}
for i, key in ipairs(KEYS) do
  if redis.call('EXISTS', key) == 1 then found[#found + 1] = i end
end
return found
