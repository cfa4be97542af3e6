-- task_places: where tasks stand, and what must be known of them to change that.
--
-- KEYS[1..] task   hash
--
-- Returns for each {state, group, lock, message}, each "" where it has none, or "" for a task that is not there. The
-- message is told only of a task with a group and no lock in its hash, since Go notes the locks of those nowhere else.

local answers = {}
for i = 1, #KEYS do
  local found = redis.pcall("HMGET", KEYS[i], "state", "group", "unique_key")
  if found.err and not string.find(found.err, "WRONGTYPE", 1, true) then
    return found
  end
  if found.err or redis.call("EXISTS", KEYS[i]) == 0 then
    answers[i] = ""
  else
    local msg = ""
    if found[2] and not found[3] then
      msg = redis.call("HGET", KEYS[i], "msg")
    end
    answers[i] = { found[1] or "", found[2] or "", found[3] or "", msg or "" }
  end
end
return answers
