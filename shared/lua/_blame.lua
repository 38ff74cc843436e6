-- The record of an element is "returns:deaths". It exists once the element came back from a dead worker
-- (the element is marked, and from then on it runs alone); deaths counts those that found it marked and
-- with nothing beside it in its worker's list.
local function blame(deliveries, raw, alone)
  local field = redis.sha1hex(raw)
  local record = redis.call('HGET', deliveries, field)
  local returns, deaths = 0, 0
  if record then
    local r, d = string.match(record, '(%d+):(%d+)')
    returns, deaths = tonumber(r), tonumber(d)
    if alone then deaths = deaths + 1 end
  end
  redis.call('HSET', deliveries, field, (returns + 1) .. ':' .. deaths)
end
