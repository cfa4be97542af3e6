-- write_result: keep bytes a handler made with its task.
--
-- KEYS[1]  task   hash
-- ARGV[1]  the bytes
-- ARGV[2]  token of the owner, or empty for whoever it is
--
-- Returns 1 when written, 0 when there is no such task, or it belongs to somebody else by now.

if redis.call("EXISTS", KEYS[1]) == 0 then
  return 0
end
if ARGV[2] ~= "" and redis.call("HGET", KEYS[1], "owner") ~= ARGV[2] then
  return 0
end
redis.call("HSET", KEYS[1], "result", ARGV[1])
return 1
