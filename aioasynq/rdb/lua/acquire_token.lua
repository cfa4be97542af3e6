-- acquire_token: take a token of a semaphore, unless all are taken.
-- uses: clock
--
-- KEYS[1]  semaphore  sorted set
-- ARGV[1]  now        unix seconds, or empty
-- ARGV[2]  how many tokens there are
-- ARGV[3]  seconds it is held at most
-- ARGV[4]  id of the task
--
-- Returns the end of the token, as its score; empty when none is free. Who holds one already has it renewed: a repeat,
-- or a later attempt of the task.

local now = clock(ARGV[1])
redis.call("ZREMRANGEBYSCORE", KEYS[1], "-inf", bound(now - 1)) -- a second late, as asynq does
if not redis.call("ZSCORE", KEYS[1], ARGV[4]) and redis.call("ZCARD", KEYS[1]) >= tonumber(ARGV[2]) then
  return ""
end
local last = score(now + tonumber(ARGV[3]))
redis.call("ZADD", KEYS[1], last, ARGV[4])
return last
