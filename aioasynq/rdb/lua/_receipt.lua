-- receipt: a write may be sent twice, since its reply may be lost. Each caller numbers its calls; the last number
-- is kept with its answer for a minute, and whoever repeats it gets that answer instead of a second write.
-- A lower number is a command that was held up somewhere (a dead connection, say) after its caller had gone on.
local function repeated(key, number)
  local kept = redis.call("GET", key)
  if not kept then
    return nil
  end
  local last
  if string.find(kept, "^%d") then -- of a call that stored tasks
    last = { tonumber(string.match(kept, "^%d+")) }
  else
    last = cmsgpack.unpack(kept)
  end
  if last[1] == tonumber(number) then
    return last[2]
  end
  if last[1] > tonumber(number) then
    return redis.error_reply("STALE call " .. number .. " after call " .. last[1])
  end
  return nil
end

local function remember(key, number, answer)
  redis.call("SET", key, cmsgpack.pack({ tonumber(number), answer }), "EX", 60)
  return answer
end
