-- reclaim_aggregation_sets: give tasks that were set apart and never became one back to their groups.
-- uses: clock, may
--
-- KEYS[1]  aggregation sets   sorted set
-- KEYS[2]  groups             set
-- KEYS[3]  aggregation set    sorted set; optional: this one, and it alone, whatever its time
-- ARGV[1]  now       unix seconds, or empty
-- ARGV[2]  prefix of the queue's keys
-- ARGV[3]  how many sets at most
--
-- Returns how many sets were given back or, being empty or no set of this queue, forgotten.

local names
if KEYS[3] then
  if not redis.call("ZSCORE", KEYS[1], KEYS[3]) then
    return 0
  end
  names = { KEYS[3] }
else
  names = redis.call("ZRANGEBYSCORE", KEYS[1], "-inf", string.format("%.6f", clock(ARGV[1])), "LIMIT", 0, ARGV[3])
end
if #names == 0 then
  return 0
end
redis.call("SCARD", KEYS[2]) -- fails here, before anything is written, when the key is no set
local groups = ARGV[2] .. "g:"
may("ZREM", KEYS[1], "SADD", KEYS[2], "DEL", groups)
if redis.acl_check_cmd and not redis.acl_check_cmd("ZUNIONSTORE", groups, "2", groups, groups) then
  error({ err = "NOPERM this user may not run ZUNIONSTORE on " .. groups })
end
for _, name in ipairs(names) do
  -- the name of the group may have colons in it, that of the set has none
  local group = string.match(name, "^(.*):[^:]*$")
  local is_ours = group and string.sub(group, 1, #groups) == groups
  if is_ours and redis.call("EXISTS", name) == 1 then
    redis.call("SADD", KEYS[2], string.sub(group, #groups + 1))
    redis.call("ZUNIONSTORE", group, 2, group, name, "AGGREGATE", "MIN")
    redis.call("DEL", name)
  end
  redis.call("ZREM", KEYS[1], name)
end
return #names
