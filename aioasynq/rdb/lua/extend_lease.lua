-- extend_lease: keep tasks that are still being worked on.
-- uses: clock, mine
--
-- KEYS[1]   lease   sorted set
-- KEYS[2..] task    hash; one for each task
-- ARGV[1]   now     unix seconds, or empty
-- ARGV[2]   seconds a lease lasts
-- ARGV[3..] id, guard; for each task
--
-- Returns for each task 1 when extended, 0 when it is no longer held under its guard. A lease that ran out is
-- extended too while nobody else has taken the task; none is created.

redis.call("ZREM", KEYS[1], "") -- removes nothing, but passes when memory is full, and then the rest does too
local moment = lease_end(clock(ARGV[1]), tonumber(ARGV[2]))
local answers = {}
for i = 2, #KEYS do
  local id, guard = ARGV[2 * i - 1], ARGV[2 * i]
  if mine(KEYS[i], redis.call("ZSCORE", KEYS[1], id), guard) then
    redis.call("ZADD", KEYS[1], "XX", moment, id)
    answers[#answers + 1] = 1
  else
    answers[#answers + 1] = 0
  end
end
return answers
