-- wait_rank: stand in line with the idle servers of a queue.
-- uses: clock
--
-- KEYS[1]  waiting   sorted set
-- ARGV[1]  now       unix seconds, or empty
-- ARGV[2]  seconds to stay in line
-- ARGV[3]  this server; names sort by how long a server has been there
--
-- Returns how many servers stand before this one.

local now = clock(ARGV[1])
redis.call("ZREMRANGEBYSCORE", KEYS[1], "-inf", bound(now))
redis.call("ZADD", KEYS[1], score(now + tonumber(ARGV[2])), ARGV[3])
local before = 0
for _, name in ipairs(redis.call("ZRANGE", KEYS[1], 0, -1)) do
  if name < ARGV[3] then
    before = before + 1
  end
end
return before
