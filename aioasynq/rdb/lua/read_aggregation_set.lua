-- read_aggregation_set: the tasks that were set apart, the one that joined first in front.
-- uses: clock, apart
--
-- KEYS[1]  aggregation set    sorted set
-- KEYS[2]  aggregation sets   sorted set
-- ARGV[1]  now       unix seconds, or empty
-- ARGV[2]  prefix of the task hashes
-- ARGV[3]  how many to leave out
-- ARGV[4]  how many at most
--
-- Returns {seconds until they go back to their group, id, message, …}, or nothing when there is no such set. The
-- message of an id without a task, or of another task by now, is empty.

local deadline = redis.call("ZSCORE", KEYS[2], KEYS[1])
if not deadline then
  return {}
end
local found = { string.format("%.3f", tonumber(deadline) - clock(ARGV[1])) }
local last = tonumber(ARGV[3]) + tonumber(ARGV[4]) - 1
for _, id in ipairs(redis.call("ZRANGE", KEYS[1], ARGV[3], last)) do
  found[#found + 1] = id
  found[#found + 1] = is_apart(ARGV[2], id) and redis.call("HGET", ARGV[2] .. id, "msg") or ""
end
return found
