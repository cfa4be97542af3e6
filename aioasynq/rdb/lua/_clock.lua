-- clock: the caller's clock, unix seconds, or Redis's own where the caller sends an empty one.
-- Scores are compared by many machines, so outside tests it is always Redis's.
local function clock(sent)
  if sent ~= "" then
    return tonumber(sent)
  end
  local time = redis.call("TIME")
  return tonumber(time[1]) + tonumber(time[2]) / 1000000
end

-- A moment as a score, in milliseconds, rounded up so that nothing is due early. (Lua's own tostring() would round
-- unix time to 14 digits.)
local function score(seconds)
  return string.format("%.3f", math.ceil(seconds * 1000 - 0.001) / 1000)
end

-- Now as a bound for scores, as exact as it is known.
local function bound(now)
  return string.format("%.6f", now)
end

-- The end of a lease of ours: never a whole second, for that is how Go's leases look.
local function lease_end(now, seconds)
  local moment = score(now + seconds)
  if string.sub(moment, -4) == ".000" then
    return string.sub(moment, 1, -2) .. "1"
  end
  return moment
end

-- The score of a task that is due at a moment. Far moments are whole seconds, rounded up: a list with a fraction in it
-- cannot be read by asynqmon, which is built on an older asynq. Within 10 seconds being on time counts for more.
local function due_score(moment, now)
  if moment - now < 10 then
    return score(moment)
  end
  return string.format("%.0f", math.ceil(moment - 0.001))
end

-- When a task is due, as a score: "+12.500" is a delay from now, anything else a moment.
local function due(when, now)
  if string.sub(when, 1, 1) == "+" then
    return due_score(now + tonumber(string.sub(when, 2)), now)
  end
  return due_score(tonumber(when), now)
end
