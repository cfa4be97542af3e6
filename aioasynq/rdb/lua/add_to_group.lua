-- add_to_group: let tasks wait in their groups.
-- uses: clock, stored, may
--
-- KEYS[1]   receipt   string
-- KEYS[2]   groups    set
-- KEYS[3..] task, group   hash, sorted set; for each task
-- ARGV[1]   number of the call
-- ARGV[2]   now       unix seconds, or empty
-- ARGV[3..] id, message, name of the group; for each task
--
-- Returns for each task 1 when stored, 0 when its id is taken.

redis.call("SCARD", KEYS[2]) -- fails here, before anything is written, when the key is no set
if ARGV[1] == "1" then -- else it could write a moment ago
  may("ZADD", KEYS[4], "HSET", KEYS[3], "SADD", KEYS[2], "INCR", KEYS[1], "SET", KEYS[1])
end
local before = told_before(KEYS[1], ARGV[1], (#KEYS - 2) / 2)
if before then
  return before
end
local now = math.floor(clock(ARGV[2]))
local answers, refused = {}, false
local arg = 3
for i = 3, #KEYS, 2 do
  local task, group = KEYS[i], KEYS[i + 1]
  local id, msg, name = ARGV[arg], ARGV[arg + 1], ARGV[arg + 2]
  arg = arg + 3
  if redis.call("EXISTS", task) == 1 then
    answers[#answers + 1] = 0
    refused = true
  else
    redis.call("ZADD", group, now, id)
    redis.call("HSET", task, "msg", msg, "state", "aggregating", "group", name)
    redis.call("SADD", KEYS[2], name)
    answers[#answers + 1] = 1
  end
end
return tell(KEYS[1], ARGV[1], answers, refused)
