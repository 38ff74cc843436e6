-- KEYS tombstones queue processing deliveries   ARGV worker side expected...
-- Moves elements that the worker has looked at into its list, for as long as the next one is the expected one:
-- it never takes what it has not seen. A marked element runs alone, so it ends the row.
-- The number of elements moved; the last moved lies first in the worker's list, as after single takes.
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 0 end
local next_one = ARGV[2] == 'RIGHT' and -1 or 0
for i = 3, #ARGV do
  local expected = redis.call('LINDEX', KEYS[2], next_one) == ARGV[i]
  if not expected or redis.call('HEXISTS', KEYS[4], redis.sha1hex(ARGV[i])) == 1 then return i - 3 end
  redis.call('LMOVE', KEYS[2], KEYS[3], ARGV[2], 'LEFT')
end
return #ARGV - 2
