-- restore_unfinished: put active tasks that nobody holds back at the head of their queue.
-- uses: clock, may, place
--
-- KEYS[1]  active    list
-- KEYS[2]  lease     sorted set
-- KEYS[3]  pending   list
-- ARGV[1]  now       unix seconds, or empty
-- ARGV[2]  prefix of the queue's keys
-- ARGV[3]  1 to take all of them, whatever their leases say
-- ARGV[4]  how many ids to pass over
-- ARGV[5]  how many ids to look at
--
-- Returns {how many were put back, how many were left, how many were looked at}. The task that was taken first is
-- the next to run. Ids without a hash, or of tasks that stand elsewhere, are only taken off.

local now = clock(ARGV[1])
local offset = tonumber(ARGV[4])
local ids = redis.call("LRANGE", KEYS[1], offset, offset + tonumber(ARGV[5]) - 1)
may("LREM", KEYS[1], "ZREM", KEYS[2], "RPUSH", KEYS[3], "HSET", ARGV[2] .. "t:", "HDEL", ARGV[2] .. "t:")
local restored, left = 0, 0
for _, id in ipairs(ids) do
  local lease = redis.call("ZSCORE", KEYS[2], id)
  if ARGV[3] ~= "1" and lease and tonumber(lease) > now then
    left = left + 1
  else
    local task = ARGV[2] .. "t:" .. id
    local state = state_of(task)
    redis.call("LREM", KEYS[1], 0, id)
    redis.call("ZREM", KEYS[2], id)
    if state == "active" or (state ~= nil and not held(ARGV[2], id, state)) then
      redis.call("RPUSH", KEYS[3], id)
      redis.call("HSET", task, "state", "pending")
      redis.call("HDEL", task, "owner")
      restored = restored + 1
    end
  end
end
return { restored, left, #ids }
