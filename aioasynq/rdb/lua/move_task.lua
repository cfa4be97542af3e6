-- move_task: carry a task that does not run over to another queue.
-- uses: receipt, may, place, unlock, leave
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
-- KEYS[11]  task
-- KEYS[12]  task in the other queue        hash
-- KEYS[13]  pending in the other queue     list
-- KEYS[14]  scheduled in the other queue   sorted set
-- KEYS[15]  retry in the other queue       sorted set
-- KEYS[16]  archived in the other queue    sorted set
-- KEYS[17]  completed in the other queue   sorted set
-- KEYS[18]  groups of the other queue      set
-- KEYS[19..] its lock here, its lock there, if it has one; its group here, its group there, if it has one
-- ARGV[1]   number of the call
-- ARGV[2]   id
-- ARGV[3]   1 if it has a lock
-- ARGV[4]   SHA1 of its message
-- ARGV[5]   its message in the other queue
--
-- Returns 1 when it is there, 0 when there is no task, 2 when it runs, 3 when it was set apart with its group,
-- 5 when another
-- task holds its lock there, 7 when the id is taken there, 9 when it has another message or another group by now.

local before = repeated(KEYS[1], ARGV[1])
if before then
  return before
end
local id, task, other = ARGV[2], KEYS[11], KEYS[12]
local lock, lock_there, first = nil, nil, 19
if ARGV[3] == "1" then
  lock, lock_there, first = KEYS[19], KEYS[20], 21
end
local group, group_there = KEYS[first], KEYS[first + 1]
may_leave(task)
may("HGETALL", task, "HSET", other, "DEL", task, "LPUSH", KEYS[13], "ZADD", KEYS[14], "SADD", KEYS[18], "SET", KEYS[12])

local state = state_of(task)
if not state then
  return remember(KEYS[1], ARGV[1], 0)
end
local why = kept(task, id, state, group)
if why then
  return remember(KEYS[1], ARGV[1], why)
elseif redis.sha1hex(redis.call("HGET", task, "msg") or "") ~= ARGV[4] then
  return remember(KEYS[1], ARGV[1], CHANGED)
elseif redis.call("EXISTS", other) == 1 then
  return remember(KEYS[1], ARGV[1], 7)
end
local left = lock and redis.pcall("GET", lock) == id and redis.call("PTTL", lock) or 0
if left > 0 and redis.call("EXISTS", lock_there) == 1 then
  return remember(KEYS[1], ARGV[1], 5)
end
local sets = { scheduled = KEYS[14], retry = KEYS[15], archived = KEYS[16], completed = KEYS[17] }
sets.aggregating = group_there
local score
if SETS[state] or state == "aggregating" then
  score = redis.call("ZSCORE", SETS[state] or group, id)
end
if score then
  redis.call("ZCARD", sets[state]) -- fails here, before anything is written, when the key is no sorted set
else
  redis.call("LLEN", KEYS[13])
end

local fields = redis.call("HGETALL", task)
leave(task, id, state, group)
redis.call("HSET", other, unpack(fields))
redis.call("HSET", other, "msg", ARGV[5])
if lock then
  if redis.call("HGET", other, "unique_key") then
    redis.call("HSET", other, "unique_key", lock_there)
  end
  if left > 0 then
    redis.call("SET", lock_there, id, "PX", left)
    unlock(lock, id)
  end
end
if score then
  redis.call("ZADD", sets[state], score, id)
  if state == "aggregating" then
    redis.call("SADD", KEYS[18], redis.call("HGET", task, "group"))
  end
else -- pending; or nowhere, and so it is found again
  redis.call("LPUSH", KEYS[13], id)
  redis.call("HSET", other, "state", "pending")
end
redis.call("DEL", task)
return remember(KEYS[1], ARGV[1], 1)
