-- since: now in unix nanoseconds, by the caller's clock (seconds), or by Redis's where the caller sends an empty one.
local function since(sent)
  if sent ~= "" then
    return string.format("%.0f", sent * 1e9)
  end
  local time = redis.call("TIME")
  return string.format("%d%06d000", time[1], time[2])
end
