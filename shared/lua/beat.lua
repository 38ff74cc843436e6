-- KEYS leases workers tombstones suspects sweeper outbox
-- ARGV worker lease_ms info grace_ms leftovers_every_ms tombstone_ttl_ms
-- Renews the lease, and reports in the same round trip what a live worker has to look after:
-- {alive, workers to sweep, swept workers whose lists to look at again, ms until a callback is due or -1,
--  callbacks waiting}.
local now = now_ms()
if redis.call('ZSCORE', KEYS[3], ARGV[1]) then return {0, {}, {}, -1, 0} end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])

-- First pass: an expired lease makes a suspect. Second pass, a grace later: still the same expired lease.
-- So a clock that jumps, or a worker that was stopped for a moment, has the time to renew.
local sweep, expired = {}, {}
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
  expired[worker] = true
  local deadline = redis.call('ZSCORE', KEYS[1], worker)
  local seen = redis.call('HGET', KEYS[4], worker)
  local seen_deadline, seen_at = string.match(seen or '', '^(%S+) (%d+)$')
  if seen_deadline == deadline and now - seen_at >= tonumber(ARGV[4]) then
    sweep[#sweep + 1] = worker
  elseif seen_deadline ~= deadline or now < tonumber(seen_at) then
    redis.call('HSET', KEYS[4], worker, deadline .. ' ' .. string.format('%d', now))
  end
end
for _, worker in ipairs(redis.call('HKEYS', KEYS[4])) do
  if not expired[worker] then redis.call('HDEL', KEYS[4], worker) end
end

local leftovers = {}
if redis.call('SET', KEYS[5], ARGV[1], 'NX', 'PX', ARGV[5]) then
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now - ARGV[6])
  leftovers = redis.call('ZRANGE', KEYS[3], 0, -1)
end

local due = -1
local first = redis.call('ZRANGE', KEYS[6], 0, 0, 'WITHSCORES')
if first[2] then due = math.max(0, first[2] - now) end
return {1, sweep, leftovers, due, redis.call('ZCARD', KEYS[6])}
