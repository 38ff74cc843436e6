-- KEYS tombstones deliveries done cancel   ARGV worker sha
-- {swept, returns, deaths, done, cancelled}; returns is -1 for an element that never came back.
local record = redis.call('HGET', KEYS[2], ARGV[2])
local returns, deaths = string.match(record or '-1:0', '(-?%d+):(%d+)')
return {
  redis.call('ZSCORE', KEYS[1], ARGV[1]) and 1 or 0,
  tonumber(returns), tonumber(deaths),
  redis.call('EXISTS', KEYS[3]), redis.call('EXISTS', KEYS[4]),
}
