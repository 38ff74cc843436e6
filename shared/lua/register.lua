-- KEYS leases workers tombstones   ARGV worker lease_ms info
-- 1 if the worker has a lease now, 0 if its id was swept and may not be used again.
if redis.call('ZSCORE', KEYS[3], ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[1], now_ms() + ARGV[2], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
return 1
