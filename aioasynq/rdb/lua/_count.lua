-- count: add *n* to a total and to the count of a day, which is kept for 90 days.
-- A counter that overflows, or that somebody made something else of, must not stop a task from being settled.
local function count(total, day, n, now)
  if redis.pcall("INCRBY", day, n) == n then
    redis.call("EXPIREAT", day, math.floor(now) + 7776000)
  end
  if type(redis.pcall("INCRBY", total, n)) == "table" then
    redis.call("SET", total, n)
  end
end
