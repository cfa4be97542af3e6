-- add_to_group_unique: let tasks wait in their groups unless one like them holds the uniqueness lock.
-- uses: clock, stored, may
--
-- KEYS[1]   receipt   string
-- KEYS[2]   groups    set
-- KEYS[3..] task, group, unique   hash, sorted set, string; for each task
-- ARGV[1]   number of the call
-- ARGV[2]   now       unix seconds, or empty
-- ARGV[3..] id, message, name of the group, seconds to hold the lock; for each task
--
-- Returns for each task 1 when stored, 0 when its id is taken, -1 when the lock is held. Only a task that is stored
-- takes its lock. As in Go, the hash of a grouped task does not name its lock.

redis.call("SCARD", KEYS[2]) -- fails here, before anything is written, when the key is no set
if ARGV[1] == "1" then -- else it could write a moment ago
  may("ZADD", KEYS[4], "HSET", KEYS[3], "SADD", KEYS[2], "SET", KEYS[5], "INCR", KEYS[1], "SET", KEYS[1])
end
local before = told_before(KEYS[1], ARGV[1], (#KEYS - 2) / 3)
if before then
  return before
end
local now = math.floor(clock(ARGV[2]))
local answers, refused = {}, false
local arg = 3
for i = 3, #KEYS, 3 do
  local task, group, unique = KEYS[i], KEYS[i + 1], KEYS[i + 2]
  local id, msg, name, ttl = ARGV[arg], ARGV[arg + 1], ARGV[arg + 2], ARGV[arg + 3]
  arg = arg + 4
  if redis.call("EXISTS", unique) == 1 then
    answers[#answers + 1] = -1
    refused = true
  elseif redis.call("EXISTS", task) == 1 then
    answers[#answers + 1] = 0
    refused = true
  else
    redis.call("ZADD", group, now, id)
    redis.call("HSET", task, "msg", msg, "state", "aggregating", "group", name)
    redis.call("SADD", KEYS[2], name)
    redis.call("SET", unique, id, "EX", ttl)
    answers[#answers + 1] = 1
  end
end
return tell(KEYS[1], ARGV[1], answers, refused)
