-- archive_tasks: archive tasks that do not run, and let go of what the archive cannot hold.
-- uses: clock, receipt, may, place, unlock, leave, trim, awaited
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
-- ARGV[3]   how many tasks the archive holds
-- ARGV[4]   how many seconds it holds them
-- ARGV[5]   prefix of the task hashes
-- ARGV[6]   key of the place in which they were found, or empty: wherever they are
-- ARGV[7..] id, 1 if it has a lock, 1 if it has a group; for each task
--
-- Returns for each task 1 when it is archived now, 0 when there is none, 2 when it runs, 3 when it was set apart with
-- its group, 4 when it was archived already, 8 when it is in another place by now, 9 when it changed its group
-- meanwhile.

local before = repeated(KEYS[1], ARGV[1])
if before then
  return before
end
redis.call("ZCARD", KEYS[7]) -- fails here, before anything is written, when the key is no sorted set
may_leave(KEYS[11])
may("ZADD", KEYS[7], "HSET", KEYS[11], "HDEL", KEYS[11], "DEL", KEYS[11], "ZRANGEBYSCORE", KEYS[7], "ZRANGE", KEYS[7])
redis.call("ZREM", KEYS[4], "") -- removes nothing, but passes when memory is full, and then the rest does too

local key = 10
local function next_key(is_there)
  if is_there == "1" then
    key = key + 1
    return KEYS[key]
  end
  return nil
end

local now = clock(ARGV[2])
local function archive(task, lock, group, id)
  local state = state_of(task)
  if not state then
    return 0
  elseif state == "archived" and stands(id, state) then
    return 4
  end
  local why = kept(task, id, state, group)
  if why then
    return why
  elseif elsewhere(state, group, ARGV[6]) then
    return ELSEWHERE
  end
  leave(task, id, state, group)
  redis.call("ZADD", KEYS[7], math.floor(now), id)
  redis.call("HSET", task, "state", "archived")
  redis.call("HDEL", task, "owner", "recovered", "pending_since")
  unlock(lock, id)
  return 1
end

local answers, ended = {}, {}
for i = 7, #ARGV, 3 do
  local answer = archive(next_key("1"), next_key(ARGV[i + 1]), next_key(ARGV[i + 2]), ARGV[i])
  answers[#answers + 1] = answer
  if answer == 1 then
    ended[#ended + 1] = ARGV[i]
  end
end
if #ended > 0 then
  tell_ended(KEYS[3], ended)
  trim(KEYS[7], ARGV[5], now, ARGV[3], ARGV[4])
end
return remember(KEYS[1], ARGV[1], answers)
