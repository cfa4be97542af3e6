-- leave: take tasks out of the places where they wait or are kept. Scripts that use it have the same first ten keys.
-- Why a task cannot leave.
local ACTIVE = 2
local APART = 3
local CHANGED = 9
local ELSEWHERE = 8

local SETS = { scheduled = KEYS[5], retry = KEYS[6], archived = KEYS[7], completed = KEYS[8] }

-- Is a task in another place than the one in which the caller found it? *place* is the key of that one; empty: it does
-- not matter.
local function elsewhere(state, group, place)
  local at = group
  if state == "pending" then
    at = KEYS[2]
  elseif state ~= "aggregating" then
    at = SETS[state]
  end
  return place ~= "" and place ~= at
end

-- What keeps a task where it is, nil when nothing does. *group* is the key of the group in which the caller saw it, or
-- nil. A task whose state names a place that does not hold it may leave: there is nobody else to help it.
local function kept(task, id, state, group)
  if state == "active" then
    if redis.call("ZSCORE", KEYS[4], id) or redis.call("LPOS", KEYS[3], id) then
      return ACTIVE
    end
  elseif state == "aggregating" then
    local name = redis.call("HGET", task, "group")
    if not group or not name or string.sub(group, -#name - 3) ~= ":g:" .. name then
      return CHANGED
    end
    if not redis.call("ZSCORE", group, id) then
      for _, apart in ipairs(redis.call("ZRANGE", KEYS[10], 0, -1)) do
        if redis.call("ZSCORE", apart, id) then
          return APART
        end
      end
    end
  end
  return nil
end

-- Is it really in the place that its state names?
local function stands(id, state)
  if state == "pending" then
    return redis.call("LPOS", KEYS[2], id, "RANK", -1) ~= false
  end
  return SETS[state] ~= nil and redis.call("ZSCORE", SETS[state], id) ~= false
end

local function leave(task, id, state, group)
  if state == "pending" then
    redis.call("LREM", KEYS[2], -1, id) -- those that are next to run are on the right
  elseif SETS[state] then
    redis.call("ZREM", SETS[state], id)
  elseif state == "aggregating" then
    redis.call("ZREM", group, id)
    if redis.call("EXISTS", group) == 0 then
      redis.call("SREM", KEYS[9], redis.call("HGET", task, "group"))
    end
  end
end

-- What is asked of all that follows, as far as it is about places.
local function may_leave(task)
  may("LREM", KEYS[2], "ZREM", KEYS[5], "ZREM", KEYS[6], "ZREM", KEYS[7], "ZREM", KEYS[8], "SREM", KEYS[9])
  may("HGET", task, "LPOS", KEYS[3], "ZSCORE", KEYS[4], "ZRANGE", KEYS[10], "SET", KEYS[1])
end
