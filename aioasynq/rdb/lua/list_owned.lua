-- list_owned: the tasks that one server holds, by the token that dequeue has stored with them.
-- uses: place
--
-- KEYS[1]  lease   sorted set
-- ARGV[1]  what the tokens of that server begin with
-- ARGV[2]  prefix of the task hashes
-- ARGV[3]  where to go on; -inf to begin
-- ARGV[4]  how many leases to look at, and those that end in the same moment as the last of them
--
-- Returns {where to go on, empty when all were looked at; {id, message, owner, how often recovered, …}}. Leases of the
-- dead stay where they are, and those of others move on only, so that none is passed over.

local to, from_there = "+inf", ""
local last = redis.call("ZRANGEBYSCORE", KEYS[1], ARGV[3], to, "WITHSCORES", "LIMIT", tonumber(ARGV[4]) - 1, 1)
if last[2] then
  to, from_there = last[2], "(" .. last[2]
end
local leases, owned = redis.call("ZRANGEBYSCORE", KEYS[1], ARGV[3], to, "WITHSCORES"), {}
for i = 1, #leases, 2 do
  local task = ARGV[2] .. leases[i]
  -- A lease of a whole second is Go's, which takes a task over and leaves the owner as it was.
  if tonumber(leases[i + 1]) % 1 ~= 0 and state_of(task) == "active" then
    local found = redis.call("HMGET", task, "owner", "msg", "recovered")
    if found[1] and string.sub(found[1], 1, #ARGV[1]) == ARGV[1] then
      owned[#owned + 1] = leases[i]
      owned[#owned + 1] = found[2] or ""
      owned[#owned + 1] = found[1]
      owned[#owned + 1] = found[3] or ""
    end
  end
end
return { from_there, owned }
