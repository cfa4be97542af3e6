-- receipt: a write may be sent twice, since its reply may be lost. Each caller numbers its calls; the last number
-- is kept with its answer for a minute, and whoever repeats it gets that answer instead of a second write.
-- A lower number is a command that was held up somewhere (a dead connection, say) after its caller had gone on.
local function repeated(key, number)
  local kept = redis.call("GET", key)
  if not kept then
    return nil
  end
  local last = tonumber(string.match(kept, "^%d+"))
  if last == tonumber(number) then
    local answer = string.match(kept, " (.*)")
    return answer and cmsgpack.unpack(answer)
  end
  if last > tonumber(number) then
    return redis.error_reply("STALE call " .. number .. " after call " .. last)
  end
  return nil
end

-- The answer stands behind the number, so that the next call has only that to read.
local function remember(key, number, answer)
  redis.call("SET", key, number .. " " .. cmsgpack.pack(answer), "EX", 60)
  return answer
end
