-- KEYS tombstones leases workers suspects queue deliveries processing   ARGV worker push mode
-- Moves everything a worker holds back into the queue, behind a tombstone on its id. Atomic, so that any
-- number of sweepers may run. mode: "dead" (only if the lease is still expired; the elements are marked),
-- "leave" (the worker itself goes; nobody is to blame), "leftovers" (a swept worker woke up and moved
-- something into its old list; nothing of it ran). Returns the number of elements moved, -1 if the worker
-- turned out to be alive.
if ARGV[3] == 'dead' then
  local deadline = redis.call('ZSCORE', KEYS[2], ARGV[1])
  if deadline and tonumber(deadline) > now_ms() then return -1 end
end
local first = 0
if ARGV[3] ~= 'leftovers' then first = redis.call('ZADD', KEYS[1], 'NX', now_ms(), ARGV[1]) end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
redis.call('HDEL', KEYS[4], ARGV[1])
local held = redis.call('LRANGE', KEYS[7], 0, -1)
for _, raw in ipairs(held) do
  if ARGV[3] == 'dead' and first == 1 then blame(KEYS[6], raw, #held == 1) end
  redis.call(ARGV[2], KEYS[5], raw)
end
redis.call('DEL', KEYS[7])
return #held
