-- repair: bring ids in active and in lease into agreement, so that recovery sees every task.
-- uses: clock, may, place
--
-- KEYS[1]  active   list
-- KEYS[2]  lease    sorted set
-- ARGV[1]  now      unix seconds, or empty
-- ARGV[2]  prefix of the queue's keys
-- ARGV[3]  how many ids to pass over
-- ARGV[4]  how many ids to look at
--
-- Returns {how many active ids were looked at, how many ids active lost, {stray id, …}, {adopted id, …}}. An id of a
-- task that stands elsewhere or has no hash is a stray and is removed. An active task without a lease gets one that has
-- just ended.

local now, prefix = clock(ARGV[1]), ARGV[2]
local offset = tonumber(ARGV[3])
local removed, strays, adopted = 0, {}, {}

local function check(id)
  local state = state_of(prefix .. "t:" .. id)
  if state == nil or (state ~= "active" and held(prefix, id, state)) then
    removed = removed + redis.call("LREM", KEYS[1], 0, id)
    redis.call("ZREM", KEYS[2], id)
    strays[#strays + 1] = id
    return
  end
  local changed = false
  if redis.call("ZSCORE", KEYS[2], id) == false then
    redis.call("ZADD", KEYS[2], lease_end(now, 0), id)
    changed = true
  end
  if redis.call("LPOS", KEYS[1], id) == false then
    redis.call("LPUSH", KEYS[1], id)
    changed = true
  end
  if state ~= "active" then
    redis.call("HSET", prefix .. "t:" .. id, "state", "active")
    changed = true
  end
  if changed then
    adopted[#adopted + 1] = id
  end
end

may("LREM", KEYS[1], "LPUSH", KEYS[1], "ZREM", KEYS[2], "ZADD", KEYS[2], "HSET", prefix .. "t:")
redis.call("ZREM", KEYS[2], "") -- removes nothing, but passes when memory is full, and then the rest does too
local ids = redis.call("LRANGE", KEYS[1], offset, offset + tonumber(ARGV[4]) - 1)
for _, id in ipairs(ids) do
  check(id)
end
if offset == 0 then
  for _, id in ipairs(redis.call("ZRANGEBYSCORE", KEYS[2], "-inf", bound(now), "LIMIT", 0, ARGV[4])) do
    check(id)
  end
end
return { #ids, removed, strays, adopted }
