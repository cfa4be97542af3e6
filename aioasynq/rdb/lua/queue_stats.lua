-- queue_stats: how many tasks a queue holds in which state, how many were processed, and since when the next
-- one waits.
--
-- KEYS[1]   pending           list
-- KEYS[2]   active            list
-- KEYS[3]   scheduled         sorted set
-- KEYS[4]   retry             sorted set
-- KEYS[5]   archived          sorted set
-- KEYS[6]   completed         sorted set
-- KEYS[7]   groups            set
-- KEYS[8]   aggregation sets  sorted set
-- KEYS[9]   paused            string
-- KEYS[10]  processed         counter
-- KEYS[11]  failed            counter
-- KEYS[12]  processed today   counter
-- KEYS[13]  failed today      counter
-- ARGV[1]   prefix of the task hashes
-- ARGV[2]   prefix of the groups
--
-- Returns {pending, active, scheduled, retry, archived, completed, groups, aggregating, 1 if it is paused,
-- processed, failed,
-- processed today, failed today, unix nanoseconds or ""}. The last is of the task that is next to run, or the
-- first one
-- after it of which it is known: asynq does not note it of tasks that were given back or run by hand.

local aggregating, groups = 0, redis.call("SMEMBERS", KEYS[7])
for _, name in ipairs(groups) do
  aggregating = aggregating + redis.call("ZCARD", ARGV[2] .. name)
end
for _, apart in ipairs(redis.call("ZRANGE", KEYS[8], 0, -1)) do
  aggregating = aggregating + redis.call("ZCARD", apart)
end
local pending_since = ""
local next_ones = redis.call("LRANGE", KEYS[1], -20, -1)
for i = #next_ones, 1, -1 do
  local found = redis.pcall("HGET", ARGV[1] .. next_ones[i], "pending_since")
  if type(found) == "string" then
    pending_since = found
    break
  end
end
local function counted(key)
  return tonumber(redis.call("GET", key) or 0) or 0
end
return {
  redis.call("LLEN", KEYS[1]),
  redis.call("LLEN", KEYS[2]),
  redis.call("ZCARD", KEYS[3]),
  redis.call("ZCARD", KEYS[4]),
  redis.call("ZCARD", KEYS[5]),
  redis.call("ZCARD", KEYS[6]),
  #groups,
  aggregating,
  redis.call("EXISTS", KEYS[9]),
  counted(KEYS[10]),
  counted(KEYS[11]),
  counted(KEYS[12]),
  counted(KEYS[13]),
  pending_since,
}
