-- stored: receipts (see receipt) of calls that store tasks, made for speed, since a lone task is a call. Kept is
-- the number of the call; only when a task was refused the answers stand behind it, as in "17:1,0,1".
local function told_before(kept, number, tasks)
  local last = tonumber(kept) or tonumber(string.match(kept, "^%d+")) or cmsgpack.unpack(kept)[1]
  if last < tonumber(number) then
    return nil
  elseif last > tonumber(number) then
    return redis.error_reply("STALE call " .. number .. " after call " .. last)
  end
  local answers = {}
  for answer in string.gmatch(kept, "[:,](-?%d)") do
    answers[#answers + 1] = tonumber(answer)
  end
  for i = #answers + 1, tasks do
    answers[i] = 1
  end
  return answers
end

local function tell(key, number, answers, refused)
  redis.call("SET", key, refused and number .. ":" .. table.concat(answers, ",") or number, "EX", 60)
  return answers
end
