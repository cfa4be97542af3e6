-- write_process_info: tell that a server lives and what it works on.
--
-- KEYS[1]  server    string
-- KEYS[2]  workers   hash
-- KEYS[3]  patterns  string
-- ARGV[1]  seconds to keep them
-- ARGV[2]  ServerInfo
-- ARGV[3]  1 when the workers follow, 0 when they are as they were
-- ARGV[4]  patterns, empty when they are not told
-- ARGV[5..] id, WorkerInfo; for each running task
--
-- Returns 1.

redis.call("SETEX", KEYS[1], ARGV[1], ARGV[2])
if ARGV[3] == "1" then
  redis.call("DEL", KEYS[2])
  for i = 5, #ARGV, 2 do
    redis.call("HSET", KEYS[2], ARGV[i], ARGV[i + 1])
  end
end
redis.call("EXPIRE", KEYS[2], ARGV[1])
if ARGV[4] ~= "" then
  redis.call("SETEX", KEYS[3], ARGV[1], ARGV[4])
end
return 1
