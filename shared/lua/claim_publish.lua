-- KEYS tombstones leases done publishing   ARGV worker claim ttl_ms
-- Before files are uploaded: of two workers that hold elements of one job only one may write its paths.
-- "go": the claim is ours; "wait": a live worker holds it; "done": the job ended; "lost": we were swept.
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 'lost' end
if redis.call('EXISTS', KEYS[3]) == 1 then return 'done' end
local mine = ARGV[1] .. ' ' .. ARGV[2]
local held = redis.call('GET', KEYS[4])
if held and held ~= mine then
  local deadline = redis.call('ZSCORE', KEYS[2], string.match(held, '^%S+'))
  if deadline and tonumber(deadline) > now_ms() then return 'wait' end
end
redis.call('SET', KEYS[4], mine, 'PX', ARGV[3])
return 'go'
