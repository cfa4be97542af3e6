-- awaited: tell whoever waits for results that tasks have ended; nothing is said where nobody waits. *active* is the
-- key of the queue's active tasks; beside it is the one that says that somebody waits. Whether it is heard, or allowed,
-- does not matter: those who wait also look for themselves.
local function tell_ended(active, ids)
  local awaited = string.gsub(active, "active$", "awaited")
  if redis.call("EXISTS", awaited) == 1 then
    for _, id in ipairs(ids) do
      redis.pcall("PUBLISH", awaited, id)
    end
  end
end
