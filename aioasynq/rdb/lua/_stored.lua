-- stored: receipts (see receipt) of calls that store tasks, made for speed, since a lone task is a call. The key counts
-- the calls of its caller, whose numbers begin with 1 and rise by one. It lives for two minutes from the first of them,
-- so a caller goes on under another name after one. Answers are kept only when a task was refused, as in "17:1,0,1".

-- The answers to a call that was done before, or an error; nil when it is new, and then it is counted.
local function told_before(key, number, tasks)
  number = tonumber(number)
  local counted = redis.pcall("INCR", key)
  if counted == number and number > 1 then
    return nil
  end
  local last, answers = counted, {}
  if type(counted) == "table" then -- answers are kept, or memory is full
    local kept = redis.call("GET", key) or "0"
    last = tonumber(string.match(kept, "^%d+"))
    for answer in string.gmatch(kept, "[:,](-?%d)") do
      answers[#answers + 1] = tonumber(answer)
    end
    if last == number then -- a write, so that a WAIT behind this call is about all that was written before
      redis.pcall("EXPIRE", key, 120)
    elseif not string.find(counted.err, "not an integer", 1, true) then
      return counted
    end
  elseif counted > number then
    last = redis.call("DECR", key)
  end
  if last > number then
    return redis.error_reply("STALE call " .. number .. " after call " .. last)
  elseif last == number and counted ~= number then
    for i = #answers + 1, tasks do
      answers[i] = 1
    end
    return answers
  end
  redis.call("SET", key, number, "EX", 120) -- the first, or the first that is seen of them
  return nil
end

-- Keep the answers, if there is a task that was refused.
local function tell(key, number, answers, refused)
  if refused then
    redis.call("SET", key, number .. ":" .. table.concat(answers, ","), "EX", 120)
  end
  return answers
end

-- Nothing was stored after all, because of this error: the call was not done, and whoever makes it again is not told
-- that it was.
local function untold(key, failed)
  redis.call("DECR", key)
  return failed
end
