-- KEYS processing queue deliveries   ARGV raw push blamed
-- Puts an element back where the next worker takes it first. 1 if it was ours to give.
local alone = redis.call('LLEN', KEYS[1]) == 1
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
if ARGV[3] == '1' then blame(KEYS[3], ARGV[1], alone) end
redis.call(ARGV[2], KEYS[2], ARGV[1])
return 1
