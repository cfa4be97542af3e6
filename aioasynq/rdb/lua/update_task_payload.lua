-- update_task_payload: put another message in place of that of a task that does not run.
-- uses: receipt, may, place, leave
--
-- KEYS[1]   receipt            string
-- KEYS[2]   pending            list
-- KEYS[3]   active             list
-- KEYS[4]   lease              sorted set
-- KEYS[5]   scheduled          sorted set
-- KEYS[6]   retry              sorted set
-- KEYS[7]   archived           sorted set
-- KEYS[8]   completed          sorted set
-- KEYS[9]   groups             set
-- KEYS[10]  aggregation sets   sorted set
-- KEYS[11]  task       hash
-- KEYS[12]  its group  sorted set; only if it has one
-- ARGV[1]   number of the call
-- ARGV[2]   id
-- ARGV[3]   SHA1 of the message that is replaced
-- ARGV[4]   message
--
-- Returns 1 when it is replaced, 0 when there is no task, 2 when it runs, 3 when it was set apart with its
-- group, 9 when it
-- has another message or another group by now, or the state in which it has no use for another payload.

local before = repeated(KEYS[1], ARGV[1])
if before then
  return before
end
may_leave(KEYS[11])
may("HSET", KEYS[11])
local state = state_of(KEYS[11])
local answer
if not state then
  answer = 0
elseif state == "completed" then
  answer = state
else
  answer = kept(KEYS[11], ARGV[2], state, KEYS[12])
end
if not answer then
  if redis.sha1hex(redis.call("HGET", KEYS[11], "msg") or "") ~= ARGV[3] then
    answer = CHANGED
  else
    redis.call("HSET", KEYS[11], "msg", ARGV[4])
    answer = 1
  end
end
return remember(KEYS[1], ARGV[1], answer)
