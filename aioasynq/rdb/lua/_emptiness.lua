-- emptiness: does a queue hold tasks? The scripts that use it have the same first nine keys.
local function runs()
  return redis.call("EXISTS", KEYS[2], KEYS[3]) > 0
end

local function waits(group_prefix)
  if redis.call("EXISTS", KEYS[1], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[9]) > 0 then
    return true
  end
  for _, name in ipairs(redis.call("SMEMBERS", KEYS[8])) do
    if redis.call("EXISTS", group_prefix .. name) == 1 then
      return true
    end
  end
  return false
end
