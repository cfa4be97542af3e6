-- list_lease_expired: the tasks whose lease ran out.
-- uses: clock, place
--
-- KEYS[1]  lease   sorted set
-- ARGV[1]  now     unix seconds, or empty
-- ARGV[2]  how many seconds ago a lease with a fraction (ours) must have ended
-- ARGV[3]  how many seconds ago a whole-second lease (Go's) must have ended
-- ARGV[4]  prefix of the task hashes
-- ARGV[5]  how many tasks at most
--
-- Returns {id, lease, message, owner, how often recovered, …} of tasks that are active; what is missing is empty.

local now = clock(ARGV[1])
local ours, theirs = now - tonumber(ARGV[2]), now - tonumber(ARGV[3])
local ended = redis.call("ZRANGEBYSCORE", KEYS[1], "-inf", bound(math.max(ours, theirs)), "WITHSCORES")
local found, limit = {}, tonumber(ARGV[5]) * 5
for i = 1, #ended, 2 do
  local id, lease = ended[i], redis.call("ZSCORE", KEYS[1], ended[i])
  local is_ours = tonumber(lease) % 1 ~= 0
  local cutoff = theirs
  if is_ours then
    cutoff = ours
  end
  if tonumber(lease) <= cutoff and state_of(ARGV[4] .. id) == "active" then
    local task = redis.call("HMGET", ARGV[4] .. id, "msg", "owner", "recovered")
    found[#found + 1] = id
    found[#found + 1] = lease
    found[#found + 1] = task[1] or ""
    found[#found + 1] = is_ours and task[2] or "" -- Go leaves the name of an earlier owner alone
    found[#found + 1] = task[3] or ""
    if #found == limit then
      break
    end
  end
end
return found
