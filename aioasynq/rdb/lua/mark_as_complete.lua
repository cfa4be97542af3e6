-- mark_as_complete: keep tasks that succeeded for their retention.
-- uses: clock, receipt, may, mine, leases, active, count, awaited
--
-- KEYS[1]   receipt    string
-- KEYS[2]   active     list
-- KEYS[3]   lease      sorted set
-- KEYS[4]   processed         counter
-- KEYS[5]   processed today   counter
-- KEYS[6]   completed  sorted set
-- KEYS[7..] task, and unique when the task holds a lock   hash, string; for each task
-- ARGV[1]   number of the call
-- ARGV[2]   now        unix seconds, or empty
-- ARGV[3..] id, guard, 1 when the task holds a lock, message, retention in seconds, 1 when there is a result,
--           result; for each task
--
-- Returns for each task 1 when kept, 0 when it is no longer held under its guard (nothing is written).

local before = repeated(KEYS[1], ARGV[1])
if before then
  return before
end
redis.call("ZCARD", KEYS[6]) -- fails here, before anything is written, when the key is no sorted set
may("LREM", KEYS[2], "LTRIM", KEYS[2], "ZREM", KEYS[3], "ZADD", KEYS[6])
may("HSET", KEYS[7], "HDEL", KEYS[7], "DEL", KEYS[7])
may("INCRBY", KEYS[4], "EXPIREAT", KEYS[5], "SET", KEYS[1])
local now = clock(ARGV[2])
local leases, gone = leases_of(KEYS[3], 3, 7), {}
local answers, scores, ours, locks, key = {}, {}, {}, {}, 7
for i = 3, #ARGV, 7 do
  local id, task, unique = ARGV[i], KEYS[key], nil
  key = key + 1
  if ARGV[i + 2] == "1" then
    unique = KEYS[key]
    key = key + 1
  end
  if mine(task, leases[id], ARGV[i + 1]) then
    leases[id] = false
    gone[#gone + 1] = id
    ours[#ours + 1] = { i, task, unique }
    scores[#scores + 1] = math.floor(now) + tonumber(ARGV[i + 4])
    scores[#scores + 1] = id
    answers[#answers + 1] = 1
  else
    answers[#answers + 1] = 0
  end
end
if #gone == 0 then
  return answers
end
off_active(KEYS[2], gone) -- first: it passes when memory is full, and then the rest does too
for _, each in ipairs(ours) do
  local i, task, unique = each[1], each[2], each[3]
  if ARGV[i + 5] == "1" then
    redis.call("HSET", task, "msg", ARGV[i + 3], "state", "completed", "result", ARGV[i + 6])
  else
    redis.call("HSET", task, "msg", ARGV[i + 3], "state", "completed")
  end
  redis.call("HDEL", task, "owner", "recovered")
  if unique and redis.pcall("GET", unique) == ARGV[i] then
    locks[#locks + 1] = unique
  end
end
redis.call("ZADD", KEYS[6], unpack(scores))
redis.call("ZREM", KEYS[3], unpack(gone))
if #locks > 0 then
  redis.call("DEL", unpack(locks))
end
count(KEYS[4], KEYS[5], #gone, now)
tell_ended(KEYS[2], gone)
return remember(KEYS[1], ARGV[1], answers)
