-- delete_aggregation_set: forget tasks that were set apart, and free their locks.
-- uses: may, unlock, apart
--
-- KEYS[1]  aggregation set    sorted set
-- KEYS[2]  aggregation sets   sorted set
-- KEYS[3..] unique            string; for each task that holds a lock
-- ARGV[1]  prefix of the task hashes
-- ARGV[2..] id; for each task that holds a lock
--
-- Returns how many there were.

local members = redis.call("ZRANGE", KEYS[1], 0, -1)
redis.call("ZCARD", KEYS[2]) -- fails here, before anything is written, when the key is no sorted set
may("DEL", KEYS[1], "ZREM", KEYS[2], "DEL", ARGV[1], "HGET", ARGV[1])
local doomed = {}
for _, id in ipairs(members) do
  if is_apart(ARGV[1], id) then
    doomed[#doomed + 1] = ARGV[1] .. id
  end
end
for i = 3, #KEYS do
  unlock(KEYS[i], ARGV[i - 1])
end
for _, task in ipairs(doomed) do
  redis.call("DEL", task)
end
redis.call("DEL", KEYS[1])
redis.call("ZREM", KEYS[2], KEYS[1])
return #members
