-- reschedule_task: set the time of a task that waits or was archived.
-- uses: clock, receipt, may, place, leave
--
-- KEYS[1]   receipt            string
-- KEYS[2]   pending            list
-- KEYS[3]   active             list
-- KEYS[4]   lease              sorted set
-- KEYS[5]   scheduled          sorted set
-- KEYS[6]   retry              sorted set
-- KEYS[7]   archived           sorted set
-- KEYS[8]   completed          sorted set
-- KEYS[9]   groups             set
-- KEYS[10]  aggregation sets   sorted set
-- KEYS[11]  task   hash
-- KEYS[12]  its lock   string; only if it has one
-- ARGV[1]   number of the call
-- ARGV[2]   now   unix seconds, or empty
-- ARGV[3]   how many seconds after its time a lock lasts that is taken again
-- ARGV[4]   id
-- ARGV[5]   when it is due
--
-- Returns 1 when it is scheduled, or retried, then; 0 when there is none, 2 when it runs, 5 when another task
-- holds its
-- lock, or the state in which it cannot be scheduled.

local before = repeated(KEYS[1], ARGV[1])
if before then
  return before
end
may_leave(KEYS[11])
may("ZADD", KEYS[5], "ZADD", KEYS[6], "HSET", KEYS[11], "HDEL", KEYS[11])
local now, id, task = clock(ARGV[2]), ARGV[4], KEYS[11]
local state = state_of(task)
if not state then
  return remember(KEYS[1], ARGV[1], 0)
elseif state == "aggregating" or state == "completed" then
  return remember(KEYS[1], ARGV[1], state)
end
local why = kept(task, id, state)
if why then
  return remember(KEYS[1], ARGV[1], why)
end
local score = due(ARGV[5], now)
local holder = state == "archived" and KEYS[12] and redis.pcall("GET", KEYS[12])
if holder and holder ~= id then
  return remember(KEYS[1], ARGV[1], 5)
end
local to = state == "retry" and "retry" or "scheduled"
redis.call("ZCARD", SETS[to]) -- fails here, before anything is written, when the key is no sorted set
leave(task, id, state)
redis.call("ZADD", SETS[to], score, id)
redis.call("HSET", task, "state", to)
redis.call("HDEL", task, "owner", "recovered", "pending_since")
if state == "archived" and KEYS[12] and not holder then
  redis.call("SET", KEYS[12], id, "EX", math.ceil(math.max(0, tonumber(score) - now)) + ARGV[3])
end
return remember(KEYS[1], ARGV[1], 1)
