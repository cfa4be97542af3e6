-- enqueue: add tasks to their queue, ready to be processed.
-- uses: clock, receipt
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
local since = string.format("%.0f", clock(ARGV[2]) * 1e9)
local answers, added = {}, {}
for i = 3, #KEYS do
  local id, msg = ARGV[2 * i - 3], ARGV[2 * i - 2]
  if redis.call("EXISTS", KEYS[i]) == 1 then
    answers[#answers + 1] = 0
  else
    redis.call("HSET", KEYS[i], "msg", msg, "state", "pending", "pending_since", since)
    added[#added + 1] = id
    answers[#answers + 1] = 1
  end
end
if #added > 0 then
  redis.call("LPUSH", KEYS[2], unpack(added))
end
return remember(KEYS[1], ARGV[1], answers)
