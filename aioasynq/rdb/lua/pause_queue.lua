-- pause_queue: let no server take tasks of a queue, or let them again.
-- uses: clock, receipt, may
--
-- KEYS[1]  receipt   string
-- KEYS[2]  paused    string
-- ARGV[1]  number of the call
-- ARGV[2]  now   unix seconds, or empty
-- ARGV[3]  1 to pause, 0 to go on
--
-- Returns 1 when it is so now, 0 when it was so already.

local before = repeated(KEYS[1], ARGV[1])
if before then
  return before
end
may("SET", KEYS[2], "DEL", KEYS[2])
local was = redis.call("EXISTS", KEYS[2])
if ARGV[3] == "1" then
  if was == 0 then
    redis.call("SET", KEYS[2], string.format("%.0f", math.floor(clock(ARGV[2]))))
  end
  return remember(KEYS[1], ARGV[1], 1 - was)
end
redis.call("DEL", KEYS[2])
return remember(KEYS[1], ARGV[1], was)
