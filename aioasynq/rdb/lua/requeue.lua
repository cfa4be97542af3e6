-- requeue: give tasks back to the head of their queue, as if they had not been taken.
-- uses: receipt, may, mine
--
-- KEYS[1]   receipt   string
-- KEYS[2]   active    list
-- KEYS[3]   lease     sorted set
-- KEYS[4]   pending   list
-- KEYS[5..] task      hash; one for each task
-- ARGV[1]   number of the call
-- ARGV[2..] id, guard; for each task, the first to run first
--
-- Returns for each task 1 when given back, 0 when it is no longer held under its guard (nothing is written).

local before = repeated(KEYS[1], ARGV[1])
if before then
  return before
end
redis.call("LLEN", KEYS[4]) -- fails here, before anything is written, when the key is no list
may("LREM", KEYS[2], "ZREM", KEYS[3], "RPUSH", KEYS[4], "HSET", KEYS[5], "HDEL", KEYS[5], "SET", KEYS[1])
local answers, settled = {}, 0
for i = #KEYS, 5, -1 do
  local id, guard = ARGV[2 * i - 8], ARGV[2 * i - 7]
  local place = i - 4
  if mine(KEYS[i], redis.call("ZSCORE", KEYS[3], id), guard) then
    redis.call("LREM", KEYS[2], 0, id)
    redis.call("ZREM", KEYS[3], id)
    redis.call("RPUSH", KEYS[4], id)
    redis.call("HSET", KEYS[i], "state", "pending")
    redis.call("HDEL", KEYS[i], "owner")
    settled = settled + 1
    answers[place] = 1
  else
    answers[place] = 0
  end
end
if settled == 0 then
  return answers
end
return remember(KEYS[1], ARGV[1], answers)
