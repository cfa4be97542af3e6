-- awaited: tell whoever waits for tasks that they have ended, or got on; nothing is said where nobody waits. *active*
-- is the key of the queue's active tasks; beside it is the one that says that somebody waits. Whether it is heard, or
-- allowed, does not matter: those who wait also look for themselves. What is done before must not be undone by this, so
-- it never fails, not even where the key is under way to another node of a Cluster.
local function tell_ended(active, ids)
  local awaited = string.gsub(active, "active$", "awaited")
  if redis.pcall("EXISTS", awaited) == 1 then
    for _, id in ipairs(ids) do
      redis.pcall("PUBLISH", awaited, id)
    end
  end
end
