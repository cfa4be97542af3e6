-- aggregation_check: when a group is ripe, set its tasks apart so that they become one.
-- uses: clock, may
--
-- KEYS[1]  group              sorted set
-- KEYS[2]  aggregation set    sorted set; a name that nobody else uses
-- KEYS[3]  aggregation sets   sorted set
-- KEYS[4]  groups             set
-- ARGV[1]  now       unix seconds, or empty
-- ARGV[2]  grace     seconds after its last task at which a group is ripe
-- ARGV[3]  delay     seconds after its first task at which it is ripe in any case, or 0
-- ARGV[4]  size      tasks with which it is ripe, and the most that are set apart, or 0
-- ARGV[5]  seconds after which the tasks go back to their group
-- ARGV[6]  name of the group
--
-- Returns 1 when the aggregation set was made, 0 when the group is not ripe. A repeat finds the set it made.

if redis.call("ZSCORE", KEYS[3], KEYS[2]) then
  return 1
end
local count = redis.call("ZCARD", KEYS[1])
redis.call("SCARD", KEYS[4]) -- fails here, before anything is written, when the key is no set
if count == 0 then
  redis.call("SREM", KEYS[4], ARGV[6])
  return 0
end
local now = clock(ARGV[1])
local grace, delay, size = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local function joined(rank)
  return tonumber(redis.call("ZRANGE", KEYS[1], rank, rank, "WITHSCORES")[2])
end
local is_full = size > 0 and count >= size
local is_old = delay > 0 and joined(0) <= now - delay
if not (is_full or is_old or joined(-1) <= now - grace) then
  return 0
end

local taken = count
if size > 0 then
  taken = math.min(count, size)
end
may("ZADD", KEYS[3], "ZREMRANGEBYRANK", KEYS[1], "SREM", KEYS[4])
if redis.acl_check_cmd and not redis.acl_check_cmd("ZRANGESTORE", KEYS[2], KEYS[1], "0", "-1") then
  error({ err = "NOPERM this user may not run ZRANGESTORE on " .. KEYS[2] })
end
redis.call("ZADD", KEYS[3], math.floor(now) + tonumber(ARGV[5]), KEYS[2])
redis.call("ZRANGESTORE", KEYS[2], KEYS[1], 0, taken - 1)
redis.call("ZREMRANGEBYRANK", KEYS[1], 0, taken - 1)
if taken == count then
  redis.call("SREM", KEYS[4], ARGV[6])
end
return 1
