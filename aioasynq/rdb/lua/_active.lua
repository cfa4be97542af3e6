-- active: take ids off the list of a queue's active tasks.
-- Those that were taken first stand last, and mostly they end first and together: then one command takes them all. Of
-- what stands there twice the last goes; the rest is a matter for repair.
local function off_active(key, ids)
  local left, run = {}, 0
  for _, id in ipairs(ids) do
    left[id] = true
  end
  if #ids > 2 then -- else it is not worth a look
    local last = redis.call("LRANGE", key, -#ids, -1)
    for i = #last, 1, -1 do
      if not left[last[i]] then
        break
      end
      left[last[i]] = nil
      run = run + 1
    end
    if run > 0 then
      redis.call("LTRIM", key, 0, -run - 1)
    end
  end
  if run < #ids then
    for _, id in ipairs(ids) do
      if left[id] then
        redis.call("LREM", key, -1, id)
      end
    end
  end
end
