-- count: add *n* to a total and to the count of a day, which is kept for 90 days.
-- A counter that overflows, or that somebody made something else of, must not stop a task from being settled.
local function add(counter, n)
  local sum = redis.pcall("INCRBY", counter, n)
  if type(sum) == "table" and string.find(sum.err, "The user executing the script", 1, true) then
    error(sum.err) -- Redis 6.2; later ones were asked before
  end
  return sum
end

local function count(total, day, n, now)
  if add(day, n) == n then
    redis.call("EXPIREAT", day, math.floor(now) + 7776000)
  end
  if type(add(total, n)) == "table" then
    redis.call("SET", total, n)
  end
end
