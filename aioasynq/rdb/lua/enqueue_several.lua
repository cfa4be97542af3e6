-- enqueue_several: as enqueue, for tasks of several queues, all of which one server holds.
-- uses: since, stored, may
--
-- KEYS[1]   receipt   string
-- KEYS[2..] pending   list; one for each run of tasks of a queue; behind these
--           task      hash; one for each task
-- ARGV[1]   number of the call
-- ARGV[2]   now       unix seconds, or empty
-- ARGV[3]   how many runs
-- ARGV[4..] how many tasks; for each run; behind these
--           id, message; for each task
--
-- Returns for each task 1 when stored, 0 when its id is taken, -2 when its queue takes none: what Redis says of that it
-- says to whoever enqueues into that queue alone.

local call = redis.call
local runs = tonumber(ARGV[3])
local before_keys, before_args = 1 + runs, 2 + runs
local tasks = #KEYS - before_keys
if ARGV[1] == "1" then -- else it could write a moment ago
  for run = 1, runs do
    may("LPUSH", KEYS[1 + run])
  end
  may("HSET", KEYS[before_keys + 1], "INCR", KEYS[1], "SET", KEYS[1])
end
local before = told_before(KEYS[1], ARGV[1], tasks)
if before then
  return before
end
local pending_since = since(ARGV[2])
local answers, new, refused, last = {}, {}, false, 0
local some = call("EXISTS", unpack(KEYS, before_keys + 1)) > 0 -- nearly always none, and this is known in one call
-- Run after run, so that tasks of a queue lie side by side in memory, as they will be read.
for run = 1, runs do
  local first, ids = last + 1, {}
  last = last + tonumber(ARGV[3 + run])
  for i = first, last do
    local task = KEYS[before_keys + i]
    if new[task] or some and call("EXISTS", task) == 1 then
      answers[i] = new[task] == "closed" and -2 or 0
      refused = true
    else
      new[task] = true
      answers[i] = 1
      ids[#ids + 1] = ARGV[before_args + 2 * i]
    end
  end
  -- As in enqueue, the list comes first.
  if ids[1] then
    local closed = type(redis.pcall("LPUSH", KEYS[1 + run], unpack(ids))) == "table"
    for i = first, last do
      local task = KEYS[before_keys + i]
      if closed and new[task] then
        new[task], answers[i], refused = "closed", -2, true
      elseif answers[i] == 1 then
        call("HSET", task, "msg", ARGV[before_args + 2 * i + 1], "state", "pending", "pending_since", pending_since)
      end
    end
  end
end
return tell(KEYS[1], ARGV[1], answers, refused)
