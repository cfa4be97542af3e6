-- enqueue: add tasks to their queue, ready to be processed.
-- uses: since, stored, may
--
-- KEYS[1]   receipt   string
-- KEYS[2]   pending   list
-- KEYS[3..] task      hash; one for each task
-- ARGV[1]   number of the call
-- ARGV[2]   now       unix seconds, or empty
-- ARGV[3..] id, message; for each task
--
-- Returns for each task 1 when stored, 0 when its id is taken.

local call = redis.call
if ARGV[1] == "1" then -- else it could write a moment ago
  may("LPUSH", KEYS[2], "HSET", KEYS[3], "INCR", KEYS[1], "SET", KEYS[1])
end
local before = told_before(KEYS[1], ARGV[1], #KEYS - 2)
if before then
  return before
end
local pending_since = since(ARGV[2])
local answers, ids, new, refused = {}, {}, {}, false
local some = call("EXISTS", unpack(KEYS, 3)) > 0 -- nearly always none, and this is known in one call
for i = 3, #KEYS do
  if new[KEYS[i]] or some and call("EXISTS", KEYS[i]) == 1 then
    answers[i - 2] = 0
    refused = true
  else
    new[KEYS[i]] = true
    answers[i - 2] = 1
    ids[#ids + 1] = ARGV[2 * i - 3]
  end
end
-- The list comes first: when it is no list, nothing is written, and should the hash be refused, an id without a task is
-- left, which is taken off, and no hash that nobody would find.
if ids[1] then
  local added = redis.pcall("LPUSH", KEYS[2], unpack(ids))
  if type(added) == "table" then
    return untold(KEYS[1], added)
  end
  for i = 3, #KEYS do
    if answers[i - 2] == 1 then
      call("HSET", KEYS[i], "msg", ARGV[2 * i - 2], "state", "pending", "pending_since", pending_since)
    end
  end
end
return tell(KEYS[1], ARGV[1], answers, refused)
