-- schedule_unique: keep tasks until they are due unless one like them holds the uniqueness lock.
-- uses: clock, stored, may
--
-- KEYS[1]   receipt    string
-- KEYS[2]   scheduled  sorted set
-- KEYS[3..] task, unique   hash, string; for each task
-- ARGV[1]   number of the call
-- ARGV[2]   now        unix seconds, or empty
-- ARGV[3..] id, message, when due ("+12.500" from now, or unix seconds), name of the group it joins then, or empty,
--           seconds to hold the lock; for each task
--
-- Returns for each task 1 when stored, 0 when its id is taken, -1 when the lock is held. Only a task that is stored
-- takes its lock.

if ARGV[1] == "1" then -- else it could write a moment ago
  may("ZADD", KEYS[2], "HSET", KEYS[3], "SET", KEYS[4], "INCR", KEYS[1], "SET", KEYS[1])
end
local before = told_before(KEYS[1], ARGV[1], (#KEYS - 2) / 2)
if before then
  return before
end
local now = clock(ARGV[2])
local answers, refused = {}, false
local arg = 3
for i = 3, #KEYS, 2 do
  local task, unique = KEYS[i], KEYS[i + 1]
  local id, msg, when, group, ttl = ARGV[arg], ARGV[arg + 1], ARGV[arg + 2], ARGV[arg + 3], ARGV[arg + 4]
  arg = arg + 5
  if redis.call("EXISTS", unique) == 1 then
    answers[#answers + 1] = -1
    refused = true
  elseif redis.call("EXISTS", task) == 1 then
    answers[#answers + 1] = 0
    refused = true
  else
    local added = redis.pcall("ZADD", KEYS[2], due(when, now), id) -- first: when it is no set, nothing is written
    if type(added) == "table" then
      return untold(KEYS[1], added)
    end
    redis.call("HSET", task, "msg", msg, "state", "scheduled", "unique_key", unique)
    if group ~= "" then
      redis.call("HSET", task, "join", group) -- ours: "group" would let Go put it into a group it does not look at
    end
    redis.call("SET", unique, id, "EX", ttl)
    answers[#answers + 1] = 1
  end
end
return tell(KEYS[1], ARGV[1], answers, refused)
