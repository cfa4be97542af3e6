-- memory_usage: about how many bytes the tasks of a queue take, from samples of each place.
--
-- KEYS[1]  pending     list
-- KEYS[2]  active      list
-- KEYS[3]  scheduled   sorted set
-- KEYS[4]  retry       sorted set
-- KEYS[5]  archived    sorted set
-- KEYS[6]  completed   sorted set
-- KEYS[7]  groups      set
-- ARGV[1]  prefix of the task hashes
-- ARGV[2]  prefix of the groups
-- ARGV[3]  how many tasks of a place are looked at
--
-- Returns the number of bytes.

local function hashes(ids, length)
  local sum, seen = 0, 0
  for _, id in ipairs(ids) do
    local bytes = redis.call("MEMORY", "USAGE", ARGV[1] .. id)
    if bytes then
      sum, seen = sum + bytes, seen + 1
    end
  end
  return seen > 0 and sum / seen * length or 0
end

local total, last = 0, ARGV[3] - 1
local function look(key, ids, length)
  if length > 0 then
    total = total + hashes(ids, length) + (redis.call("MEMORY", "USAGE", key) or 0)
  end
end

local function look_at_list(key)
  look(key, redis.call("LRANGE", key, 0, last), redis.call("LLEN", key))
end

local function look_at_set(key)
  look(key, redis.call("ZRANGE", key, 0, last), redis.call("ZCARD", key))
end

look_at_list(KEYS[1])
look_at_list(KEYS[2])
look_at_set(KEYS[3])
look_at_set(KEYS[4])
look_at_set(KEYS[5])
look_at_set(KEYS[6])
for _, name in ipairs(redis.call("SMEMBERS", KEYS[7])) do
  look_at_set(ARGV[2] .. name)
end
return math.floor(total)
