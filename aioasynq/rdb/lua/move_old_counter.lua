-- move_old_counter: add what was counted on a day in asynq's layout of 2020 to today's counters, once.
-- uses: receipt, may
--
-- KEYS[1]  receipt      string
-- KEYS[2]  old          counter
-- KEYS[3]  total        counter
-- KEYS[4]  of the day   counter
-- ARGV[1]  number of the call
-- ARGV[2]  1 to write nothing and tell what would be done
--
-- Returns the count that was added, 0 when there is none any more, -1 when what is there is no count, -2 when one of
-- today's counters is none, or would not hold it. Nothing is changed for the last two.

local dry = ARGV[2] == "1"
if not dry then
  local before = repeated(KEYS[1], ARGV[1])
  if before then
    return before
  end
  may("SET", KEYS[1], "INCRBY", KEYS[3], "INCRBY", KEYS[4], "PEXPIRE", KEYS[4], "DEL", KEYS[2])
end

-- Is it a number that Lua can add to without rounding?
local function is_count(text)
  return type(text) == "string" and string.find(text, "^%d+$") ~= nil and #text < 16
end

-- Absent is as good.
local function can_take(counter)
  local text = redis.pcall("GET", counter)
  return not text or is_count(text)
end

local count = redis.pcall("GET", KEYS[2])
if not count then
  return 0
elseif not is_count(count) then
  return -1
elseif not can_take(KEYS[3]) or not can_take(KEYS[4]) then
  return -2
end
if dry then
  return tonumber(count)
end
redis.call("INCRBY", KEYS[3], count) -- fails here, before anything is written, when memory is full
redis.call("INCRBY", KEYS[4], count)
if redis.call("PTTL", KEYS[4]) < 0 then
  local ttl = redis.call("PTTL", KEYS[2])
  redis.call("PEXPIRE", KEYS[4], ttl > 0 and ttl or 7776000000) -- 90 days
end
redis.call("DEL", KEYS[2])
return remember(KEYS[1], ARGV[1], tonumber(count))
