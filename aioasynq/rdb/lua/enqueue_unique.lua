-- enqueue_unique: add tasks to their queue unless one like them holds the uniqueness lock.
-- uses: clock, receipt, may
--
-- KEYS[1]   receipt   string
-- KEYS[2]   pending   list
-- KEYS[3..] task, unique   hash, string; for each task
-- ARGV[1]   number of the call
-- ARGV[2]   now       unix seconds, or empty
-- ARGV[3..] id, message, seconds to hold the lock; for each task
--
-- Returns for each task 1 when stored, 0 when its id is taken, -1 when the lock is held. Only a task that is stored
-- takes its lock.

local before = repeated(KEYS[1], ARGV[1])
if before then
  return before
end
redis.call("LLEN", KEYS[2]) -- fails here, before anything is written, when the key is no list
may("LPUSH", KEYS[2], "HSET", KEYS[3], "SET", KEYS[4], "SET", KEYS[1])
local since = string.format("%.0f", clock(ARGV[2]) * 1e9)
local answers = {}
local arg = 3
for i = 3, #KEYS, 2 do
  local task, unique = KEYS[i], KEYS[i + 1]
  local id, msg, ttl = ARGV[arg], ARGV[arg + 1], ARGV[arg + 2]
  arg = arg + 3
  if redis.call("EXISTS", unique) == 1 then
    answers[#answers + 1] = -1
  elseif redis.call("EXISTS", task) == 1 then
    answers[#answers + 1] = 0
  else
    redis.call("LPUSH", KEYS[2], id) -- first, as in enqueue
    redis.call("HSET", task, "msg", msg, "state", "pending", "pending_since", since, "unique_key", unique)
    redis.call("SET", unique, id, "EX", ttl)
    answers[#answers + 1] = 1
  end
end
return remember(KEYS[1], ARGV[1], answers)
