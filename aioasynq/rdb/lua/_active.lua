-- active: take ids off the list of a queue's active tasks.
-- Those that were taken first stand last, and mostly they end first and together, many in the very order in which they
-- were taken: then one command takes them all. Of what stands there twice the last goes; the rest is a matter for
-- repair.
local function off_active(key, ids)
  local last, gone, left = {}, 0, {}
  if #ids > 2 then -- else it is not worth a look
    last = redis.call("LRANGE", key, -#ids, -1)
  end
  local stay = #last
  while stay > 0 and last[stay] == ids[gone + 1] do
    stay, gone = stay - 1, gone + 1
  end
  for i = gone + 1, #ids do
    left[ids[i]] = true
  end
  while stay > 0 and left[last[stay]] do
    left[last[stay]] = nil
    stay = stay - 1
  end
  if stay < #last then
    redis.call("LTRIM", key, 0, stay - #last - 1)
  end
  for i = gone + 1, #ids do
    if left[ids[i]] then
      redis.call("LREM", key, -1, ids[i])
    end
  end
end
