-- done: forget tasks that succeeded.
-- uses: clock, receipt, may, mine, leases, active, count
--
-- KEYS[1]   receipt   string
-- KEYS[2]   active    list
-- KEYS[3]   lease     sorted set
-- KEYS[4]   processed         counter
-- KEYS[5]   processed today   counter
-- KEYS[6..] task, and unique when the task holds a lock   hash, string; for each task
-- ARGV[1]   number of the call
-- ARGV[2]   now       unix seconds, or empty
-- ARGV[3..] id, guard, 1 when the task holds a lock; for each task
--
-- Returns for each task 1 when removed, 0 when it is no longer held under its guard (nothing is written).

local call = redis.call
local before = repeated(KEYS[1], ARGV[1])
if before then
  return before
end
may("LREM", KEYS[2], "LTRIM", KEYS[2], "ZREM", KEYS[3], "DEL", KEYS[6])
may("INCRBY", KEYS[4], "EXPIREAT", KEYS[5], "SET", KEYS[1])
local now = clock(ARGV[2])
local leases, gone = leases_of(KEYS[3], 3, 3), {}
local answers, doomed, key = {}, {}, 6
for i = 3, #ARGV, 3 do
  local id, task, unique = ARGV[i], KEYS[key], nil
  key = key + 1
  if ARGV[i + 2] == "1" then
    unique = KEYS[key]
    key = key + 1
  end
  if mine(task, leases[id], ARGV[i + 1]) then
    leases[id] = false
    gone[#gone + 1] = id
    doomed[#doomed + 1] = task
    if unique and redis.pcall("GET", unique) == id then
      doomed[#doomed + 1] = unique
    end
    answers[#answers + 1] = 1
  else
    answers[#answers + 1] = 0
  end
end
if #gone == 0 then
  return answers
end
off_active(KEYS[2], gone)
call("ZREM", KEYS[3], unpack(gone))
call("DEL", unpack(doomed))
count(KEYS[4], KEYS[5], #gone, now)
return remember(KEYS[1], ARGV[1], answers)
