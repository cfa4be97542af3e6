-- move_old_tasks: carry tasks of asynq's layout of 2020 over to today's, each as one step.
-- uses: since, receipt, may, place
--
-- KEYS[1]   receipt   string
-- KEYS[2]   where they stand   list or sorted set of old messages
-- KEYS[3..] task, where it goes, its old lock and today's   hash, list or sorted set, strings; for each task, the locks
--           only if it has one
-- ARGV[1]   number of the call
-- ARGV[2]   now   unix seconds, or empty
-- ARGV[3]   the state they get: pending, scheduled, retry, archived
-- ARGV[4]   1 when they are next to run
-- ARGV[5]   1 to write nothing and tell what would be done
-- ARGV[6..] old message, id, prefix of the queue's keys, new message, 1 if it has a lock; for each task
--
-- Returns for each task 1 when it was carried over, 2 when it was there already, just so, and the old one was removed,
-- 0 when the old one is gone, -1 when the id is another task's, -2 when the place where it should go is of another
-- kind. Nothing is changed for the last three.

local dry, state = ARGV[5] == "1", ARGV[3]
local is_list = state == "pending"
if not dry then
  local before = repeated(KEYS[1], ARGV[1])
  if before then
    return before
  end
  may("SET", KEYS[1], "GET", KEYS[1], "DEL", KEYS[1], "PTTL", KEYS[1], "HSET", KEYS[3], "HGET", KEYS[3])
  if is_list then
    may("LREM", KEYS[2], "LPUSH", KEYS[4], "RPUSH", KEYS[4])
  else
    may("ZREM", KEYS[2], "ZADD", KEYS[4])
  end
  remember(KEYS[1], 0, {}) -- fails here, before a task is touched, when memory is full
end

local pending_since = since(ARGV[2])

-- Take it out of where it stands. Lists are worked through from the end that ARGV[4] says, so it is near there.
local function taken(old)
  if is_list then
    return redis.call("LREM", KEYS[2], ARGV[4] == "1" and 1 or -1, old) == 1
  end
  return redis.call("ZREM", KEYS[2], old) == 1
end

local function stands(old)
  if is_list then
    return redis.call("LPOS", KEYS[2], old) ~= false
  end
  return redis.call("ZSCORE", KEYS[2], old) ~= false
end

local function left(old, why)
  return (dry or stands(old)) and why or 0
end

local function move(task, place, old_lock, lock, old, id, prefix, msg)
  local now_in = state_of(task)
  if now_in == nil and redis.call("EXISTS", task) == 1 then
    return left(old, -1)
  elseif now_in then
    if redis.call("HGET", task, "msg") ~= msg or (now_in ~= "active" and not held(prefix, id, now_in)) then
      return left(old, -1)
    end
    return (dry or taken(old)) and 2 or 0
  end
  local there = is_list and redis.pcall("LLEN", place) or redis.pcall("ZCARD", place)
  if type(there) == "table" then
    return left(old, -2)
  end
  local old_score = not is_list and redis.call("ZSCORE", KEYS[2], old)
  if dry then
    return 1
  elseif not taken(old) then
    return 0
  end
  redis.call("HSET", task, "msg", msg, "state", state)
  if not is_list then
    redis.call("ZADD", place, old_score, id)
  else
    redis.call("HSET", task, "pending_since", pending_since)
    if ARGV[4] == "1" then
      redis.call("RPUSH", place, id)
    else
      redis.call("LPUSH", place, id)
    end
  end
  if lock then
    redis.call("HSET", task, "unique_key", lock)
    if redis.pcall("GET", old_lock) == id then
      local ttl = redis.call("PTTL", old_lock)
      if redis.call("EXISTS", lock) == 0 and ttl > 0 then
        redis.call("SET", lock, id, "PX", ttl)
      elseif redis.call("EXISTS", lock) == 0 then
        redis.call("SET", lock, id)
      end
      redis.call("DEL", old_lock)
    end
  end
  return 1
end

local answers, key = {}, 3
for i = 6, #ARGV, 5 do
  local task, place, old_lock, lock = KEYS[key], KEYS[key + 1], nil, nil
  key = key + 2
  if ARGV[i + 4] == "1" then
    old_lock, lock = KEYS[key], KEYS[key + 1]
    key = key + 2
  end
  answers[#answers + 1] = move(task, place, old_lock, lock, ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
end
if dry then
  return answers
end
return remember(KEYS[1], ARGV[1], answers)
