-- KEYS outbox outbox_bodies outbox_state   ARGV claim_ms
-- The callback that is due longest, hidden from other senders for claim_ms:
-- {member, body, attempts, first_ms, patience_ms, now_ms}; patience_ms is when a status that is retried for a
-- short time only came first, or 0; or {ms until one is due}, or {} where none waits.
local now = now_ms()
while true do
  local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  local member = first[1]
  if not member then return {} end
  if tonumber(first[2]) > now then return {first[2] - now} end
  local body = redis.call('HGET', KEYS[2], member)
  if body then
    local state = redis.call('HGET', KEYS[3], member) or ''
    local attempts, first_ms, patience_ms = string.match(state, '(%d+) (%d+) ?(%d*)')
    redis.call('ZADD', KEYS[1], now + ARGV[1], member)
    return {member, body, tonumber(attempts) or 0, tonumber(first_ms) or now, tonumber(patience_ms) or 0, now}
  end
  redis.call('ZREM', KEYS[1], member)
end
