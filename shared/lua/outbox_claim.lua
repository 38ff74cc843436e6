-- KEYS outbox outbox_bodies outbox_state   ARGV claim_ms
-- The callback that is due longest, hidden from other senders for claim_ms:
-- {member, body, attempts, first_ms, now_ms}; or {ms until one is due}, or {} where none waits.
local now = now_ms()
while true do
  local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  local member = first[1]
  if not member then return {} end
  if tonumber(first[2]) > now then return {first[2] - now} end
  local body = redis.call('HGET', KEYS[2], member)
  if body then
    local attempts, first_ms = string.match(redis.call('HGET', KEYS[3], member) or '', '(%d+) (%d+)')
    redis.call('ZADD', KEYS[1], now + ARGV[1], member)
    return {member, body, tonumber(attempts) or 0, tonumber(first_ms) or now, now}
  end
  redis.call('ZREM', KEYS[1], member)
end
