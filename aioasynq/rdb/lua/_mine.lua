-- mine: does the caller still hold this task? *lease* is the score of its lease as text, or false.
-- A guard is the token its owner stored at dequeue; it holds only while the lease has a fraction of a second, since
-- Go writes whole seconds when it takes the task over, and does not touch the owner.
-- "lease=<score>" is the guard of whoever recovers a task: it holds while the lease is just the one that was seen.
local read, fraction -- the lease that was read last, and what it said: tasks that were taken together have one
local function mine(task, lease, guard)
  if not lease then
    return false
  end
  local owner = redis.pcall("HGET", task, "owner")
  if owner == guard then -- nearly always
    if lease ~= read then
      read, fraction = lease, lease % 1 ~= 0
    end
    return fraction
  end
  if type(owner) == "table" and not string.find(owner.err, "WRONGTYPE", 1, true) then
    error(owner.err)
  end
  return string.sub(guard, 1, 6) == "lease=" and lease == string.sub(guard, 7)
end
