-- KEYS queue pushed   ARGV LPUSH|RPUSH element ttl_ms
-- {1 if it was pushed now, 0 if it had been before; the queue's length}
-- The mark comes last: where the push itself is refused there must be none.
local fresh = redis.call('EXISTS', KEYS[2]) == 0
if fresh then
  redis.call(ARGV[1], KEYS[1], ARGV[2])
  redis.call('SET', KEYS[2], '1', 'PX', ARGV[3])
end
return {fresh and 1 or 0, redis.call('LLEN', KEYS[1])}
