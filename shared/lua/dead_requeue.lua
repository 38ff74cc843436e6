-- KEYS dead queue [done]   ARGV entry raw push
-- Moves a dead letter back into the queue in one step: "requeued"; "gone" where there is no such entry;
-- "ended" where a job of the id that is about to be queued has had its terminal callback.
if KEYS[3] and redis.call('EXISTS', KEYS[3]) == 1 then return 'ended' end
if redis.call('XDEL', KEYS[1], ARGV[1]) == 0 then return 'gone' end
redis.call(ARGV[3], KEYS[2], ARGV[2])
return 'requeued'
