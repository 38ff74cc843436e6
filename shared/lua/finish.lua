-- KEYS tombstones processing deliveries done cancel outbox outbox_bodies outbox_state dead publishing progress
-- ARGV worker raw sha member body done_ttl_ms dead_reason dead_count dead_ttl_ms
-- Ends an element, in one step: with a terminal callback (body), as a dead letter (dead_reason), or both.
-- "committed"; "duplicate": the job was done before, its stored callback goes out again;
-- "lost": the element is not ours any more, nothing was changed.
local now = now_ms()
local function deliver(body)
  redis.call('HSET', KEYS[7], ARGV[4], body)
  redis.call('HSET', KEYS[8], ARGV[4], '0 ' .. string.format('%d', now))
  redis.call('ZADD', KEYS[6], now, ARGV[4])
end
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 'lost' end
local stored = ARGV[4] ~= '' and redis.call('GET', KEYS[4])
-- A repeat whose stored callback ran out of time meanwhile has nothing to end with: it is a job again.
if not stored and ARGV[5] == '' and ARGV[7] == '' then return 'lost' end
local removed = redis.call('LREM', KEYS[2], 1, ARGV[2])
if removed == 0 then
  -- The reply to this very call was lost and the client asks again: it did happen.
  if stored and stored == ARGV[5] then return 'committed' end
  return 'lost'
end
redis.call('HDEL', KEYS[3], ARGV[3])
redis.call('DEL', KEYS[10], KEYS[11])
if stored then
  deliver(stored)
  return 'duplicate'
end
if ARGV[5] ~= '' then
  redis.call('SET', KEYS[4], ARGV[5], 'PX', ARGV[6])
  redis.call('DEL', KEYS[5])
  deliver(ARGV[5])
end
if ARGV[7] ~= '' then
  redis.call('XADD', KEYS[9], 'MAXLEN', ARGV[8], '*',
    'raw', ARGV[2], 'reason', ARGV[7], 'job', ARGV[4], 'terminal', ARGV[5] ~= '' and '1' or '0')
  redis.call('XTRIM', KEYS[9], 'MINID', string.format('%d', now - ARGV[9]))
end
return 'committed'
