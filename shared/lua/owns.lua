-- KEYS tombstones processing done   ARGV worker raw
-- 1 while the element is this worker's and its job is not done.
if redis.call('ZSCORE', KEYS[1], ARGV[1]) or redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
return redis.call('LPOS', KEYS[2], ARGV[2]) and 1 or 0
