-- next_due: when the next delayed task of each queue is due.
-- uses: clock
--
-- KEYS[1..] scheduled, retry   sorted sets; for each queue
-- ARGV[1]   now                unix seconds, or empty
--
-- Returns for each queue the seconds until then, as text, negative when it is late; empty when none waits.

local answers, now = {}, nil
for i = 1, #KEYS, 2 do
  local scheduled = redis.call("ZRANGE", KEYS[i], 0, 0, "WITHSCORES")[2]
  local retry = redis.call("ZRANGE", KEYS[i + 1], 0, 0, "WITHSCORES")[2]
  local left = ""
  if scheduled or retry then
    now = now or clock(ARGV[1])
    left = string.format("%.3f", math.min(tonumber(scheduled or retry), tonumber(retry or scheduled)) - now)
  end
  answers[#answers + 1] = left
end
return answers
