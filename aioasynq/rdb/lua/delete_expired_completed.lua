-- delete_expired_completed: forget completed tasks whose retention is over.
-- uses: clock, may, place
--
-- KEYS[1]  completed   sorted set
-- ARGV[1]  now         unix seconds, or empty
-- ARGV[2]  prefix of the task hashes
-- ARGV[3]  how many tasks at most
--
-- Returns how many ids were removed.

local ids = redis.call("ZRANGEBYSCORE", KEYS[1], "-inf", bound(clock(ARGV[1])), "LIMIT", 0, ARGV[3])
may("ZREM", KEYS[1], "DEL", ARGV[2])
for _, id in ipairs(ids) do
  if state_of(ARGV[2] .. id) == "completed" then
    redis.call("DEL", ARGV[2] .. id)
  end
  redis.call("ZREM", KEYS[1], id)
end
return #ids
