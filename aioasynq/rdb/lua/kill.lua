-- kill: archive tasks that failed for good, and let go of what the archive cannot hold.
-- uses: clock, receipt, may, mine, count, unlock, trim, awaited
--
-- KEYS[1]   receipt   string
-- KEYS[2]   active    list
-- KEYS[3]   lease     sorted set
-- KEYS[4]   processed         counter
-- KEYS[5]   processed today   counter
-- KEYS[6]   failed            counter
-- KEYS[7]   failed today      counter
-- KEYS[8]   archived  sorted set
-- KEYS[9..] task, and unique when the task holds a lock   hash, string; for each task
-- ARGV[1]   number of the call
-- ARGV[2]   now       unix seconds, or empty
-- ARGV[3]   how many tasks the archive holds
-- ARGV[4]   how many seconds it holds them
-- ARGV[5]   prefix of the task hashes
-- ARGV[6..] id, guard, 1 when the task holds a lock, message (empty: the bytes that are there stay), error (kept in
--           a field of the hash when there is no message to carry it); for each task
--
-- Returns for each task 1 when archived, 0 when it is no longer held under its guard (nothing is written).
-- Tasks that are too old, or one too many, lose their hash and their lock; at most 1,000 in one call.

local before = repeated(KEYS[1], ARGV[1])
if before then
  return before
end
redis.call("ZCARD", KEYS[8]) -- fails here, before anything is written, when the key is no sorted set
may("LREM", KEYS[2], "ZREM", KEYS[3], "ZADD", KEYS[8], "HSET", KEYS[9], "HDEL", KEYS[9], "DEL", KEYS[9])
may("HGET", KEYS[9], "INCRBY", KEYS[4], "EXPIREAT", KEYS[5], "SET", KEYS[1])
may("ZRANGEBYSCORE", KEYS[8], "ZRANGE", KEYS[8])

local now = clock(ARGV[2])
local answers, gone, key = {}, {}, 9
for i = 6, #ARGV, 5 do
  local id, task, unique = ARGV[i], KEYS[key], nil
  key = key + 1
  if ARGV[i + 2] == "1" then
    unique = KEYS[key]
    key = key + 1
  end
  if mine(task, redis.call("ZSCORE", KEYS[3], id), ARGV[i + 1]) then
    redis.call("LREM", KEYS[2], 0, id)
    redis.call("ZREM", KEYS[3], id)
    redis.call("ZADD", KEYS[8], math.floor(now), id)
    redis.call("HSET", task, "state", "archived")
    redis.call("HDEL", task, "owner", "recovered")
    if ARGV[i + 3] == "" then
      redis.call("HSET", task, "error", ARGV[i + 4])
    else
      redis.call("HSET", task, "msg", ARGV[i + 3])
    end
    unlock(unique or redis.call("HGET", task, "unique_key"), id)
    gone[#gone + 1] = id
    answers[#answers + 1] = 1
  else
    answers[#answers + 1] = 0
  end
end
if #gone == 0 then
  return answers
end
count(KEYS[4], KEYS[5], #gone, now)
count(KEYS[6], KEYS[7], #gone, now)
tell_ended(KEYS[2], gone)

trim(KEYS[8], ARGV[5], now, ARGV[3], ARGV[4])
return remember(KEYS[1], ARGV[1], answers)
