-- check_and_enqueue: make due tasks pending; those that belong to a group go there.
-- uses: clock, may, place
--
-- KEYS[1]  scheduled or retry   sorted set
-- KEYS[2]  pending   list
-- KEYS[3]  groups    set
-- ARGV[1]  now       unix seconds, or empty
-- ARGV[2]  prefix of the queue's keys
-- ARGV[3]  how many tasks at most
--
-- Returns {how many were due, {stray id, …}}. Strays are ids without a hash, or of tasks that stand elsewhere by now.

local now, prefix = clock(ARGV[1]), ARGV[2]
local source = string.sub(KEYS[1], #prefix + 1)
local ids = redis.call("ZRANGEBYSCORE", KEYS[1], "-inf", bound(now), "LIMIT", 0, ARGV[3])
local ready, grouped, strays = {}, {}, {}
for _, id in ipairs(ids) do
  local state = state_of(prefix .. "t:" .. id)
  if state == nil or (state ~= source and held(prefix, id, state)) then
    strays[#strays + 1] = id
  else
    local fields = redis.call("HMGET", prefix .. "t:" .. id, "group", "join")
    local group = fields[1] or (source == "scheduled" and fields[2])
    if group and group ~= "" then
      redis.call("ZCARD", prefix .. "g:" .. group) -- fails here, before anything is written, when it is no group
      grouped[#grouped + 1] = { id, group }
    else
      ready[#ready + 1] = id
    end
  end
end
if #ids == 0 then
  return { 0, strays }
end
if #grouped > 0 then
  redis.call("SCARD", KEYS[3]) -- as above
end
may("ZREM", KEYS[1], "LPUSH", KEYS[2], "HSET", prefix .. "t:", "HDEL", prefix .. "t:")
may("ZADD", prefix .. "g:", "SADD", KEYS[3])
redis.call("ZREM", KEYS[1], "") -- removes nothing, but passes when memory is full, and then the rest does too
if #ready > 0 then
  redis.call("LPUSH", KEYS[2], unpack(ready))
end
for _, pair in ipairs(grouped) do
  redis.call("ZADD", prefix .. "g:" .. pair[2], math.floor(now), pair[1])
  redis.call("SADD", KEYS[3], pair[2])
end
redis.call("ZREM", KEYS[1], unpack(ids))
local since = string.format("%.0f", now * 1e9)
for _, id in ipairs(ready) do
  redis.call("HSET", prefix .. "t:" .. id, "state", "pending", "pending_since", since)
end
for _, pair in ipairs(grouped) do
  redis.call("HSET", prefix .. "t:" .. pair[1], "state", "aggregating", "group", pair[2])
  redis.call("HDEL", prefix .. "t:" .. pair[1], "join")
end
return { #ids, strays }
