-- sweep_queue: forget what no task needs: hashes of tasks that stand nowhere, locks of tasks that are gone.
-- uses: may, place, unlock
--
-- KEYS[1..] keys of the queue   string, hash, …
-- ARGV[1]   prefix of the queue's keys
-- ARGV[2]   1 to look only
--
-- Returns how many keys are gone, or would be.

local tasks, locks = ARGV[1] .. "t:", ARGV[1] .. "unique:"
local gone = 0
if ARGV[2] ~= "1" then
  may("DEL", ARGV[1])
end

local function forget(key, lock, id)
  gone = gone + 1
  if ARGV[2] ~= "1" then
    unlock(lock, id)
    redis.call("DEL", key)
  end
end

for i = 1, #KEYS do
  local key = KEYS[i]
  if string.sub(key, 1, #tasks) == tasks then
    local id = string.sub(key, #tasks + 1)
    local state = state_of(key)
    local in_place = state and held(ARGV[1], id, state)
    if state == "aggregating" and not in_place then
      for _, apart in ipairs(redis.call("ZRANGE", ARGV[1] .. "aggregation_sets", 0, -1)) do
        in_place = in_place or redis.call("ZSCORE", apart, id) ~= false
      end
    elseif state == "active" and not in_place then
      in_place = redis.call("LPOS", ARGV[1] .. "active", id) ~= false
    end
    if not in_place and redis.call("EXISTS", key) == 1 then -- else it has gone its way meanwhile
      forget(key, state and redis.call("HGET", key, "unique_key"), id)
    end
  elseif string.sub(key, 1, #locks) == locks then
    local id = redis.pcall("GET", key)
    if type(id) == "string" and redis.call("EXISTS", tasks .. id) == 0 then
      forget(key)
    end
  end
end
return gone
