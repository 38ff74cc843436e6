-- KEYS outbox outbox_bodies outbox_state outbox_dead
-- ARGV member body verdict delay_ms reason dead_count dead_ttl_ms
-- verdict: "accepted", "retry", "retry-shortly" (its time limit counts from the first such answer) or "dead". Nothing happens if the entry is gone or holds another body.
local now = now_ms()
if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then return 0 end
if ARGV[3] == 'retry' or ARGV[3] == 'retry-shortly' then
  local state = redis.call('HGET', KEYS[3], ARGV[1]) or ''
  local attempts, first_ms, patience_ms = string.match(state, '(%d+) (%d+) ?(%d*)')
  local stamp = string.format('%d', now)
  if ARGV[3] == 'retry' then
    patience_ms = '0'
  elseif (tonumber(patience_ms) or 0) == 0 then
    patience_ms = stamp
  end
  state = ((tonumber(attempts) or 0) + 1) .. ' ' .. (first_ms or stamp) .. ' ' .. patience_ms
  redis.call('HSET', KEYS[3], ARGV[1], state)
  redis.call('ZADD', KEYS[1], now + ARGV[4], ARGV[1])
  return 1
end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
if ARGV[3] == 'dead' then
  redis.call('XADD', KEYS[4], 'MAXLEN', ARGV[6], '*', 'job', ARGV[1], 'body', ARGV[2], 'reason', ARGV[5])
  redis.call('XTRIM', KEYS[4], 'MINID', string.format('%d', now - ARGV[7]))
end
return 1
