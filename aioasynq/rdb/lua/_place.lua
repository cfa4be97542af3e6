-- place: where a task stands, by its hash and by what really holds its id.

-- The state in the hash; nil when there is no hash (or something else in its place), "" when it has no state.
local function state_of(task)
  local state = redis.pcall("HGET", task, "state")
  if type(state) == "table" then
    if not string.find(state.err, "WRONGTYPE", 1, true) then
      error(state.err)
    end
    return nil
  end
  if not state then
    if redis.call("EXISTS", task) == 0 then
      return nil
    end
    return ""
  end
  return state
end

-- Is the id really held by the place that its state names? False for states without a set of their own.
local function held(prefix, id, state)
  if state == "pending" then
    return redis.call("LPOS", prefix .. "pending", id) ~= false
  elseif state == "active" then
    return redis.call("ZSCORE", prefix .. "lease", id) ~= false
  elseif state == "scheduled" or state == "retry" or state == "archived" or state == "completed" then
    return redis.call("ZSCORE", prefix .. state, id) ~= false
  elseif state == "aggregating" then
    local group = redis.call("HGET", prefix .. "t:" .. id, "group")
    return group ~= false and redis.call("ZSCORE", prefix .. "g:" .. group, id) ~= false
  end
  return false
end
