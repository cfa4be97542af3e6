-- retry: let tasks wait for their next try.
-- uses: clock, receipt, may, mine, count
--
-- KEYS[1]   receipt   string
-- KEYS[2]   active    list
-- KEYS[3]   lease     sorted set
-- KEYS[4]   processed         counter
-- KEYS[5]   processed today   counter
-- KEYS[6]   failed            counter
-- KEYS[7]   failed today      counter
-- KEYS[8]   retry     sorted set
-- KEYS[9..] task      hash; one for each task
-- ARGV[1]   number of the call
-- ARGV[2]   now       unix seconds, or empty
-- ARGV[3..] id, guard, message, seconds until the next try, 1 when this try was a failure, how often the task was
--           recovered (empty: leave it); for each task
--
-- Returns for each task 1 when it waits, 0 when it is no longer held under its guard (nothing is written).

local before = repeated(KEYS[1], ARGV[1])
if before then
  return before
end
redis.call("ZCARD", KEYS[8]) -- fails here, before anything is written, when the key is no sorted set
may("LREM", KEYS[2], "ZREM", KEYS[3], "ZADD", KEYS[8], "HSET", KEYS[9], "HDEL", KEYS[9])
may("INCRBY", KEYS[4], "EXPIREAT", KEYS[5], "SET", KEYS[1])
local now = clock(ARGV[2])
local answers, settled, failures = {}, 0, 0
for i = 9, #KEYS do
  local arg = 3 + (i - 9) * 6
  local id, guard, msg = ARGV[arg], ARGV[arg + 1], ARGV[arg + 2]
  if mine(KEYS[i], redis.call("ZSCORE", KEYS[3], id), guard) then
    redis.call("LREM", KEYS[2], 0, id)
    redis.call("ZREM", KEYS[3], id)
    redis.call("ZADD", KEYS[8], due_score(now + tonumber(ARGV[arg + 3]), now), id)
    redis.call("HSET", KEYS[i], "msg", msg, "state", "retry")
    redis.call("HDEL", KEYS[i], "owner")
    if ARGV[arg + 5] ~= "" then
      redis.call("HSET", KEYS[i], "recovered", ARGV[arg + 5])
    end
    if ARGV[arg + 4] == "1" then
      failures = failures + 1
    end
    settled = settled + 1
    answers[#answers + 1] = 1
  else
    answers[#answers + 1] = 0
  end
end
if failures > 0 then
  count(KEYS[4], KEYS[5], failures, now)
  count(KEYS[6], KEYS[7], failures, now)
end
if settled == 0 then
  return answers
end
return remember(KEYS[1], ARGV[1], answers)
