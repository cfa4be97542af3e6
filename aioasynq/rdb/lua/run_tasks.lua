-- run_tasks: make tasks pending that wait for something else, or are kept.
-- uses: since, receipt, may, place, leave
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
-- KEYS[11..] task, its lock, its group   hash, string, sorted set; for each task, lock and group only if it has one
-- ARGV[1]   number of the call
-- ARGV[2]   now   unix seconds, or empty
-- ARGV[3]   how many seconds a lock lasts that is taken again
-- ARGV[4]   key of the place in which they were found, or empty: wherever they are
-- ARGV[5..] id, 1 if it has a lock, 1 if it has a group; for each task
--
-- Returns for each task 1 when it is pending now, 0 when there is none, 2 when it runs, 3 when it was set apart with
-- its group, 4 when it was pending already, 5 when another task holds its lock, 8 when it is in another place by now,
-- 9 when it changed its group meanwhile.

local before = repeated(KEYS[1], ARGV[1])
if before then
  return before
end
redis.call("LLEN", KEYS[2]) -- fails here, before anything is written, when the key is no list
may_leave(KEYS[11])
may("LPUSH", KEYS[2], "HSET", KEYS[11], "HDEL", KEYS[11])
redis.call("ZREM", KEYS[4], "") -- removes nothing, but passes when memory is full, and then the rest does too

local key = 10
local function next_key(is_there)
  if is_there == "1" then
    key = key + 1
    return KEYS[key]
  end
  return nil
end

local pending_since = since(ARGV[2])
local function run(task, lock, group, id)
  local state = state_of(task)
  if not state then
    return 0
  elseif state == "pending" and stands(id, state) then
    return 4
  end
  local why = kept(task, id, state, group)
  if why then
    return why
  elseif elsewhere(state, group, ARGV[4]) then
    return ELSEWHERE
  end
  if lock and (state == "archived" or state == "completed") then -- it gave its lock back when it came there
    local holder = redis.pcall("GET", lock)
    if holder and holder ~= id then
      return 5
    elseif not holder then
      redis.call("SET", lock, id, "EX", ARGV[3])
    end
  end
  leave(task, id, state, group)
  redis.call("LPUSH", KEYS[2], id)
  redis.call("HSET", task, "state", "pending", "pending_since", pending_since)
  redis.call("HDEL", task, "owner", "recovered")
  return 1
end

local answers = {}
for i = 5, #ARGV, 3 do
  answers[#answers + 1] = run(next_key("1"), next_key(ARGV[i + 1]), next_key(ARGV[i + 2]), ARGV[i])
end
return remember(KEYS[1], ARGV[1], answers)
