-- since: now in unix nanoseconds, by the caller's clock (seconds), or by Redis's where the caller sends an empty one.
local function since(sent)
  if sent ~= "" then
    return string.format("%.0f", sent * 1e9)
  end
  local time = redis.call("TIME")
  return time[1] .. string.sub("00000" .. time[2], -6) .. "000"
end
