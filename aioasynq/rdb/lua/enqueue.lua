-- enqueue: add tasks to their queue, ready to be processed.
-- uses: clock, receipt, may
--
-- KEYS[1]   receipt   string
-- KEYS[2]   pending   list
-- KEYS[3..] task      hash; one for each task
-- ARGV[1]   number of the call
-- ARGV[2]   now       unix seconds, or empty
-- ARGV[3..] id, message; for each task
--
-- Returns for each task 1 when stored, 0 when its id is taken.

local before = repeated(KEYS[1], ARGV[1])
if before then
  return before
end
redis.call("LLEN", KEYS[2]) -- fails here, before anything is written, when the key is no list
may("LPUSH", KEYS[2], "HSET", KEYS[3], "SET", KEYS[1])
local since = string.format("%.0f", clock(ARGV[2]) * 1e9)
local answers, added, seen = {}, {}, {}
for i = 3, #KEYS do
  if seen[KEYS[i]] or redis.call("EXISTS", KEYS[i]) == 1 then
    answers[#answers + 1] = 0
  else
    seen[KEYS[i]] = i
    added[#added + 1] = ARGV[2 * i - 3]
    answers[#answers + 1] = 1
  end
end
-- The list comes first: should the hash be refused, an id without a task is left, which is taken off, and no hash that
-- nobody would find.
if #added > 0 then
  redis.call("LPUSH", KEYS[2], unpack(added))
end
for task, i in pairs(seen) do
  redis.call("HSET", task, "msg", ARGV[2 * i - 2], "state", "pending", "pending_since", since)
end
return remember(KEYS[1], ARGV[1], answers)
