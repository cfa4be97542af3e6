-- aggregate: put one task in the place of those that were set apart.
-- uses: clock, receipt, may, unlock, apart
--
-- KEYS[1]  receipt            string
-- KEYS[2]  aggregation set    sorted set
-- KEYS[3]  aggregation sets   sorted set
-- KEYS[4]  archived           sorted set
-- KEYS[5]  task               hash of the new one
-- KEYS[6]  where it goes      list when pending, else sorted set
-- KEYS[7]  groups             set
-- KEYS[8..] unique            string; of the new one when it is to hold a lock, then of those set apart that hold one
-- ARGV[1]  number of the call
-- ARGV[2]  now        unix seconds, or empty
-- ARGV[3]  prefix of the task hashes
-- ARGV[4]  id of the new task, or empty: there is none
-- ARGV[5]  its message
-- ARGV[6]  its state: pending, scheduled or aggregating
-- ARGV[7]  when it is due ("+12.500" from now, or unix seconds), or the name of its group
-- ARGV[8]  seconds to hold its lock, or 0: it has none
-- ARGV[9]  how many of those set apart have bytes that are no message: they go to the archive
-- ARGV[10..] id, error; for each of these. Then the id of each one that holds a lock
--
-- Returns 1 when done, 0 when the new id is taken, -1 when its lock is held, -2 when the tasks went back to their
-- group meanwhile; nothing is written unless it is 1.

local before = repeated(KEYS[1], ARGV[1])
if before then
  return before
end
if not redis.call("ZSCORE", KEYS[3], KEYS[2]) then
  return -2
end
local members, leaving = redis.call("ZRANGE", KEYS[2], 0, -1), {}
for _, member in ipairs(members) do
  leaving[member] = is_apart(ARGV[3], member)
end
local id, state, lock = ARGV[4], ARGV[6], nil
local key = 8
redis.call("ZCARD", KEYS[4]) -- fails here, before anything is written, when the key is no sorted set
may("LPUSH", KEYS[6], "ZADD", KEYS[6], "SADD", KEYS[7], "HSET", KEYS[5], "HGET", KEYS[5], "DEL", KEYS[5])
may("DEL", KEYS[2], "ZREM", KEYS[3], "ZADD", KEYS[4], "SET", KEYS[1], "GET", KEYS[1])
if id ~= "" then
  if state == "pending" then
    redis.call("LLEN", KEYS[6]) -- as above
  else
    redis.call("ZCARD", KEYS[6])
    redis.call("SCARD", KEYS[7])
  end
  if ARGV[8] ~= "0" then
    lock = KEYS[key]
    key = key + 1
    local holder = redis.call("GET", lock)
    if holder and not leaving[holder] then
      return -1
    end
  end
  if redis.call("EXISTS", KEYS[5]) == 1 and not leaving[id] then
    return 0
  end
end

local now = clock(ARGV[2])
local broken = {}
local arg = 10
for _ = 1, tonumber(ARGV[9]) do
  broken[ARGV[arg]] = ARGV[arg + 1]
  arg = arg + 2
end
while arg <= #ARGV do
  unlock(KEYS[key], ARGV[arg])
  key, arg = key + 1, arg + 1
end
for _, member in ipairs(members) do
  local task = ARGV[3] .. member
  if leaving[member] and broken[member] then
    redis.call("ZADD", KEYS[4], math.floor(now), member)
    redis.call("HSET", task, "state", "archived", "error", broken[member])
  elseif leaving[member] then
    redis.call("DEL", task)
  end
end
redis.call("DEL", KEYS[2])
redis.call("ZREM", KEYS[3], KEYS[2])

if id ~= "" then
  if state == "pending" then
    redis.call("LPUSH", KEYS[6], id)
    redis.call("HSET", KEYS[5], "pending_since", string.format("%.0f", now * 1e9))
  elseif state == "scheduled" then
    redis.call("ZADD", KEYS[6], due(ARGV[7], now), id)
  else
    redis.call("ZADD", KEYS[6], math.floor(now), id)
    redis.call("SADD", KEYS[7], ARGV[7])
    redis.call("HSET", KEYS[5], "group", ARGV[7])
  end
  redis.call("HSET", KEYS[5], "msg", ARGV[5], "state", state)
  if lock then
    redis.call("SET", lock, id, "EX", ARGV[8])
    if state ~= "aggregating" then
      redis.call("HSET", KEYS[5], "unique_key", lock)
    end
  end
end
return remember(KEYS[1], ARGV[1], 1)
