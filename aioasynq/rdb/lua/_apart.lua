-- apart: is the task under an id that was set apart still the same? Where the id became free it may be another one by
-- now, which waits elsewhere: in a group, too. *prefix* is that of the task hashes. To be asked before the first write.
local function is_apart(prefix, id)
  local found = redis.pcall("HMGET", prefix .. id, "state", "group")
  if found.err and not string.find(found.err, "WRONGTYPE", 1, true) then
    error(found.err) -- a user who may not read is no reason to leave it behind
  end
  if found[1] ~= "aggregating" then
    return false
  end
  local joined = redis.pcall("ZSCORE", string.sub(prefix, 1, -3) .. "g:" .. (found[2] or ""), id)
  if type(joined) == "table" and not string.find(joined.err, "WRONGTYPE", 1, true) then
    error(joined.err)
  end
  return type(joined) ~= "string"
end
