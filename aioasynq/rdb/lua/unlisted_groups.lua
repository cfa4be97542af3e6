-- unlisted_groups: which groups with tasks are not among the names of groups; name them.
-- uses: may
--
-- KEYS[1]   groups             set
-- KEYS[2]   aggregation sets   sorted set
-- KEYS[3..] group              sorted set; for each name
-- ARGV[1]   1 to look only
-- ARGV[2..] name
--
-- Returns the names that are missing. What is set apart is no group.

if ARGV[1] ~= "1" then
  may("SADD", KEYS[1])
end
local found = {}
for i = 3, #KEYS do
  local name = ARGV[i - 1]
  local is_known = redis.call("SISMEMBER", KEYS[1], name) == 1 or redis.call("ZSCORE", KEYS[2], KEYS[i])
  if not is_known and redis.call("TYPE", KEYS[i]).ok == "zset" then
    found[#found + 1] = name
    if ARGV[1] ~= "1" then
      redis.call("SADD", KEYS[1], name)
    end
  end
end
return found
