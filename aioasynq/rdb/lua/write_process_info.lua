-- write_process_info: tell that a server lives and what it works on.
-- uses: clock
--
-- KEYS[1]  server    string
-- KEYS[2]  workers   hash
-- KEYS[3]  patterns  string
-- KEYS[4]  servers   sorted set: until when KEYS[1] counts } left out on a Cluster,
-- KEYS[5]  workers   sorted set: the same of KEYS[2]       } where they are elsewhere
-- ARGV[1]  now       unix seconds, or empty
-- ARGV[2]  seconds to keep them
-- ARGV[3]  ServerInfo
-- ARGV[4]  1 when the workers follow, 0 when they are as they were
-- ARGV[5]  patterns, empty when they are not told
-- ARGV[6..] id, WorkerInfo; for each running task
--
-- Returns 1; 0 when there are no workers, be it that they are as they were and that has been lost.

redis.call("SETEX", KEYS[1], ARGV[2], ARGV[3])
if ARGV[4] == "1" then
  redis.call("DEL", KEYS[2])
  for i = 6, #ARGV, 2 do
    redis.call("HSET", KEYS[2], ARGV[i], ARGV[i + 1])
  end
end
local there = redis.call("EXPIRE", KEYS[2], ARGV[2])
if ARGV[5] ~= "" then
  redis.call("SETEX", KEYS[3], ARGV[2], ARGV[5])
end
if KEYS[4] then
  local expiry = string.format("%d", math.floor(clock(ARGV[1])) + tonumber(ARGV[2]))
  redis.call("ZADD", KEYS[4], expiry, KEYS[1])
  redis.call("ZADD", KEYS[5], expiry, KEYS[2])
end
return there
