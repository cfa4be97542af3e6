-- write_result: keep bytes a handler made with its task.
-- uses: mine
--
-- KEYS[1]  task    hash
-- KEYS[2]  lease   sorted set
-- ARGV[1]  id
-- ARGV[2]  the bytes
-- ARGV[3]  token of the owner, or empty for whoever it is
--
-- Returns 1 when written, 0 when there is no such task, or it belongs to somebody else by now.

if redis.call("EXISTS", KEYS[1]) == 0 then
  return 0
end
if ARGV[3] ~= "" and not mine(KEYS[1], redis.call("ZSCORE", KEYS[2], ARGV[1]), ARGV[3]) then
  return 0
end
redis.call("HSET", KEYS[1], "result", ARGV[2])
return 1
