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

local kept = redis.call("GET", KEYS[1])
local before = kept and told_before(kept, ARGV[1], #KEYS - 2)
if before then
  return before
end
if not kept then -- else it could write within the last minute
  may("LPUSH", KEYS[2], "HSET", KEYS[3], "SET", KEYS[1])
end
local pending_since = since(ARGV[2])
local answers, added, seen, refused = {}, {}, {}, false
for i = 3, #KEYS do
  if seen[KEYS[i]] or redis.call("EXISTS", KEYS[i]) == 1 then
    answers[#answers + 1] = 0
    refused = true
  else
    seen[KEYS[i]] = i
    added[#added + 1] = ARGV[2 * i - 3]
    answers[#answers + 1] = 1
  end
end
-- The list comes first: when it is no list, nothing is written, and should the hash be refused, an id without a task is
-- left, which is taken off, and no hash that nobody would find.
if #added > 0 then
  redis.call("LPUSH", KEYS[2], unpack(added))
end
for task, i in pairs(seen) do
  redis.call("HSET", task, "msg", ARGV[2 * i - 2], "state", "pending", "pending_since", pending_since)
end
return tell(KEYS[1], ARGV[1], answers, refused)
