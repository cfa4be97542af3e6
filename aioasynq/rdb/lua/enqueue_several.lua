-- enqueue_several: as enqueue, for tasks of several queues, all of which one server holds.
-- uses: since, stored, may
--
-- KEYS[1]   receipt   string
-- KEYS[2..] pending   list; one for each queue; behind these
--           task      hash; one for each task
-- ARGV[1]   number of the call
-- ARGV[2]   now       unix seconds, or empty
-- ARGV[3]   how many queues
-- ARGV[4..] which of the queues, id, message; for each task
--
-- Returns for each task 1 when stored, 0 when its id is taken, -2 when its queue takes none: what Redis says of that it
-- says to whoever enqueues into that queue alone.

local call = redis.call
local queues = tonumber(ARGV[3])
local tasks = #KEYS - 1 - queues
if ARGV[1] == "1" then -- else it could write a moment ago
  for queue = 1, queues do
    may("LPUSH", KEYS[1 + queue])
  end
  may("HSET", KEYS[2 + queues], "INCR", KEYS[1], "SET", KEYS[1])
end
local before = told_before(KEYS[1], ARGV[1], tasks)
if before then
  return before
end
local pending_since = since(ARGV[2])
local answers, ids, places, new, refused = {}, {}, {}, {}, false
for i = 1, tasks do
  local task = KEYS[1 + queues + i]
  local queue = tonumber(ARGV[3 * i + 1])
  if new[task] then
    answers[i] = 0
    refused = true
    table.insert(places[queue], i)
  elseif call("EXISTS", task) == 1 then
    answers[i] = 0
    refused = true
  else
    new[task] = true
    answers[i] = 1
    if not ids[queue] then
      ids[queue], places[queue] = {}, {}
    end
    table.insert(ids[queue], ARGV[3 * i + 2])
    table.insert(places[queue], i)
  end
end
-- As in enqueue, the list comes first. Those of a queue are written one after another: so they lie side by side in
-- memory, as they will be read.
for queue, added in pairs(ids) do
  local closed = type(redis.pcall("LPUSH", KEYS[1 + queue], unpack(added))) == "table"
  for _, i in ipairs(places[queue]) do
    if closed then
      answers[i] = -2
      refused = true
    elseif answers[i] == 1 then
      call("HSET", KEYS[1 + queues + i], "msg", ARGV[3 * i + 3], "state", "pending", "pending_since", pending_since)
    end
  end
end
return tell(KEYS[1], ARGV[1], answers, refused)
