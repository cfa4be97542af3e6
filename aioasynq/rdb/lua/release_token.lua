-- release_token: give a token of a semaphore back.
--
-- KEYS[1]  semaphore  sorted set
-- ARGV[1]  id of the task
-- ARGV[2]  the end of the token, as acquire_token returned it, so that a later attempt keeps its own; or empty
-- ARGV[3]  what is answered when it is not there: 0, or 1 by a repeat, whose first attempt may have given it back
--
-- Returns 1 when it is given back.

local last = redis.call("ZSCORE", KEYS[1], ARGV[1])
if not last or (ARGV[2] ~= "" and tonumber(last) ~= tonumber(ARGV[2])) then
  return tonumber(ARGV[3])
end
return redis.call("ZREM", KEYS[1], ARGV[1])
