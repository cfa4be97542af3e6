-- delete_tasks: forget tasks that do not run, and free their locks.
-- uses: receipt, may, place, unlock, leave, awaited
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
-- KEYS[11]  place in which the ids were found   list, sorted set
-- KEYS[12..] task, its lock, its group   hash, string, sorted set; for each task, lock and group only if it has one
-- ARGV[1]   number of the call
-- ARGV[2]   1 to leave alone what is in another place by now
-- ARGV[3..] id, 1 if it has a lock, 1 if it has a group; for each task
--
-- Returns for each task 1 when it is gone, 0 when there was none (an id without a task is taken out of the place), 2
-- when it runs, 3 when it was set apart with its group, 8 when it is in another place by now, 9 when it changed its
-- group meanwhile.

local before = repeated(KEYS[1], ARGV[1])
if before then
  return before
end
may_leave(KEYS[12])
may("DEL", KEYS[12])

local key = 11
local function next_key(is_there)
  if is_there == "1" then
    key = key + 1
    return KEYS[key]
  end
  return nil
end

local is_list = redis.call("TYPE", KEYS[11]).ok == "list"
local function delete(task, lock, group, id)
  local state = state_of(task)
  if not state then
    if is_list then
      redis.call("LREM", KEYS[11], 0, id)
    else
      redis.call("ZREM", KEYS[11], id)
    end
    return 0
  end
  local why = kept(task, id, state, group)
  if why then
    return why
  elseif elsewhere(state, group, ARGV[2] == "1" and KEYS[11] or "") then
    return ELSEWHERE
  end
  leave(task, id, state, group)
  unlock(lock, id)
  redis.call("DEL", task)
  return 1
end

local answers, ended = {}, {}
for i = 3, #ARGV, 3 do
  local answer = delete(next_key("1"), next_key(ARGV[i + 1]), next_key(ARGV[i + 2]), ARGV[i])
  answers[#answers + 1] = answer
  if answer == 1 then
    ended[#ended + 1] = ARGV[i]
  end
end
if #ended > 0 then
  tell_ended(KEYS[3], ended)
end
return remember(KEYS[1], ARGV[1], answers)
