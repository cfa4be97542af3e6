-- unlock: free the lock that a task names, if it holds it. What names it may be junk, and then it is no lock.
local function unlock(lock, id)
  if type(lock) == "string" and redis.pcall("GET", lock) == id then
    redis.call("DEL", lock)
  end
end
