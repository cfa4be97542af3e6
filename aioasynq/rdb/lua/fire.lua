-- fire: claim one firing of a periodic task, and store its task in the same step. A firing is claimed once, whoever
-- asks, and its entry's firings in their order; whoever claimed it may ask again, and is answered the same.
-- uses: clock, since, may
--
-- KEYS[1]   fired    string; "<moment> <answer> <claimant>" of the last firing of this entry
-- KEYS[2]   task     hash
-- KEYS[3]   place    list pending, sorted set scheduled, or set groups
-- KEYS[4..] group, unique   sorted set where the task waits in a group, string where it takes a lock
-- ARGV[1]   now      unix seconds, or empty
-- ARGV[2]   moment   unix seconds, whole
-- ARGV[3]   seconds to remember it
-- ARGV[4]   claimant
-- ARGV[5]   id
-- ARGV[6]   message
-- ARGV[7]   state it gets: pending, scheduled, aggregating
-- ARGV[8]   when due ("+12.500" from now, or unix seconds); of a scheduled task
-- ARGV[9]   name of its group, or empty
-- ARGV[10]  seconds to hold the lock, or 0
--
-- Returns the answer, the moment fired last (0: none yet), and now. The answer is 1 when stored, 0 when the id is
-- taken, -1 when the lock is held, 2 when the firing, or one after it, was claimed by somebody else, 3 when it is not
-- due yet.

local now = clock(ARGV[1])
local moment = tonumber(ARGV[2])
local last, answer, claimant = string.match(redis.call("GET", KEYS[1]) or "", "^(%d+) (%-?%d) (.*)$")
last = tonumber(last or 0)
if last > now + 3600 then
  last = 0 -- claimed by a clock that was far ahead and was put right; else nothing would come until then
end
if moment <= last then
  local own = moment == last and claimant == ARGV[4]
  return { own and tonumber(answer) or 2, last, bound(now) }
end
if moment > now then
  return { 3, last, bound(now) }
end

local state, group, ttl = ARGV[7], ARGV[9], tonumber(ARGV[10])
local members = state == "aggregating" and KEYS[4]
local unique = ttl > 0 and KEYS[members and 5 or 4]
local adds = state == "pending" and "LPUSH" or state == "scheduled" and "ZADD" or "SADD"
may("SET", KEYS[1], "HSET", KEYS[2], adds, KEYS[3])
if members then
  may("ZADD", members)
end
if unique then
  may("SET", unique)
end

if unique and redis.call("EXISTS", unique) == 1 then
  answer = -1
elseif redis.call("EXISTS", KEYS[2]) == 1 then
  answer = 0
else
  answer = 1
end
-- The place comes first, as in enqueue: when it is of another kind, nothing is written, the claim neither.
if answer == 1 then
  if state == "pending" then
    redis.call("LPUSH", KEYS[3], ARGV[5])
    redis.call("HSET", KEYS[2], "msg", ARGV[6], "state", state, "pending_since", since(ARGV[1]))
  elseif state == "scheduled" then
    redis.call("ZADD", KEYS[3], due(ARGV[8], now), ARGV[5])
    redis.call("HSET", KEYS[2], "msg", ARGV[6], "state", state)
    if group ~= "" then
      redis.call("HSET", KEYS[2], "join", group)
    end
  else
    redis.call("SADD", KEYS[3], group)
    redis.call("ZADD", members, math.floor(now), ARGV[5])
    redis.call("HSET", KEYS[2], "msg", ARGV[6], "state", state, "group", group)
  end
  if unique then
    if not members then
      redis.call("HSET", KEYS[2], "unique_key", unique)
    end
    redis.call("SET", unique, ARGV[5], "EX", ARGV[10])
  end
end
redis.call("SET", KEYS[1], ARGV[2] .. " " .. answer .. " " .. ARGV[4], "EX", ARGV[3])
return { answer, last, bound(now) }
