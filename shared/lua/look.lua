-- KEYS a cancel key for each job in hand, then a done and a progress key for each that runs
-- ARGV ttl_ms progress...
-- Publishes how far the running jobs are. The positions (from 1) of the jobs that are to be cancelled.
local jobs = #KEYS - 2 * (#ARGV - 1)
for i = 2, #ARGV do
  local done, progress = KEYS[jobs + 2 * i - 3], KEYS[jobs + 2 * i - 2]
  -- The caller's picture of the job may be older than its end.
  if redis.call('EXISTS', done) == 0 then redis.call('SET', progress, ARGV[i], 'PX', ARGV[1]) end
end
local cancelled = {}
for i = 1, jobs do
  if redis.call('EXISTS', KEYS[i]) == 1 then cancelled[#cancelled + 1] = i end
end
return cancelled
