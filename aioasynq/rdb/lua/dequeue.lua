-- dequeue: take the tasks that waited longest, with a lease and an owner.
-- uses: clock, receipt, may, mine, place
--
-- KEYS[1]  receipt    string
-- KEYS[2]  pending    list
-- KEYS[3]  paused     string
-- KEYS[4]  active     list
-- KEYS[5]  lease      sorted set
-- KEYS[6]  scheduled  sorted set; this and the next only when an empty queue is to say what is due next
-- KEYS[7]  retry      sorted set
-- ARGV[1]  number of the call
-- ARGV[2]  now       unix seconds, or empty
-- ARGV[3]  seconds a lease lasts
-- ARGV[4]  prefix of the queue's keys
-- ARGV[5]  token of the owner
-- ARGV[6]  how many tasks at most
-- ARGV[7]  how many bytes of messages at most; the first task may be larger
-- ARGV[8]  1 when this call is a repeat, so that the one it repeats can no longer take anything
--
-- Returns {state, end of the lease, {id, message, …}, {stray id, …}}. State is 0 when the queue is empty now, 1 when
-- more may wait, 2 when it is paused. Strays are ids that were in the list and no task of it: without a hash, or held
-- elsewhere; they are taken off the list.
-- When nothing waits, what would be the end of the lease is instead the seconds until the next delayed task is due, as
-- text, "inf" when there is none; it is empty when that was not asked for, or cannot be had.

local call, pcall = redis.call, redis.pcall -- each is looked up for each task else
local prefix, owner = ARGV[4] .. "t:", ARGV[5]

-- Up to 128 leases Redis keeps in a flat list, in which it reads number after number to find a place: that took a
-- quarter of the time a task costs. A member of more than 64 bytes, there for a moment, makes a tree of it until it is
-- empty; not where a task has that id.
local MANY, LONG = 16, string.rep("-", 65)

local before = repeated(KEYS[1], ARGV[1])
if before then
  if before.err then
    return before
  end
  local taken = {}
  for _, id in ipairs(before[3]) do
    local task = prefix .. id
    if mine(task, call("ZSCORE", KEYS[5], id), owner) then -- else somebody has recovered it meanwhile
      taken[#taken + 1] = id
      taken[#taken + 1] = call("HGET", task, "msg") or ""
    end
  end
  return { before[1], before[2], taken, before[4] }
end

local function answer(state, moment, taken, ids, strays)
  if #ids > 0 or #strays > 0 or ARGV[8] == "1" then
    if ARGV[8] == "1" then
      call("DEL", KEYS[1]) -- passes when memory is full, and then the rest does too
    end
    remember(KEYS[1], ARGV[1], { state, moment, ids, strays })
  end
  return { state, moment, taken, strays }
end

if call("EXISTS", KEYS[3]) == 1 then
  return answer(2, "", {}, {}, {})
end
local wanted, most = tonumber(ARGV[6]), tonumber(ARGV[7])
local waiting = call("LRANGE", KEYS[2], -wanted, -1)
local ids, tasks, taken, strays, seen = {}, {}, {}, {}, {}
local state, looked, n, bytes = 1, 0, 0, 0
if #waiting < wanted then
  state = 0
end
for i = #waiting, 1, -1 do
  local id = waiting[i]
  local task = prefix .. id
  local found = pcall("HMGET", task, "state", "msg")
  if found.err and not string.find(found.err, "WRONGTYPE", 1, true) then
    error(found.err) -- a user who may not read is no reason to call it a stray
  end
  local stray = seen[id] -- the id stands in the list twice
  if not stray and found[1] ~= "pending" then
    local at = state_of(task)
    stray = at == nil or held(ARGV[4], id, at)
  end
  if stray then
    strays[#strays + 1] = id
  else
    local msg = found[2] or ""
    bytes = bytes + #msg
    if n > 0 and bytes > most then
      state = 1
      break
    end
    seen[id] = true
    n = n + 1
    ids[n], tasks[n], taken[2 * n - 1], taken[2 * n] = id, task, id, msg
  end
  looked = looked + 1
end
if looked == 0 then
  local due = ""
  if KEYS[7] then
    local scheduled = pcall("ZRANGE", KEYS[6], 0, 0, "WITHSCORES")
    local retry = pcall("ZRANGE", KEYS[7], 0, 0, "WITHSCORES")
    if not scheduled.err and not retry.err then
      local score = math.min(tonumber(scheduled[2] or math.huge), tonumber(retry[2] or math.huge))
      due = score == math.huge and "inf" or string.format("%.3f", score - clock(ARGV[2]))
    end
  end
  return answer(state, due, {}, {}, {})
end

may("HDEL", prefix, "ZADD", KEYS[5], "ZREM", KEYS[5], "LPUSH", KEYS[4], "LTRIM", KEYS[2], "HSET", prefix)
may("SET", KEYS[1], "DEL", KEYS[1])
-- HDEL passes when memory is full, and what follows a first write passes too: a full Redis can still be worked empty.
-- The lease comes before the lists change, so that a task cannot drop out of sight.
local moment = lease_end(clock(ARGV[2]), tonumber(ARGV[3]))
local leases = {}
for i = 1, n do
  call("HDEL", tasks[i], "pending_since")
  leases[2 * i - 1], leases[2 * i] = moment, ids[i]
end
local grows = n >= MANY and not seen[LONG] and not call("ZSCORE", KEYS[5], LONG)
if grows then
  call("ZADD", KEYS[5], moment, LONG)
end
if n > 0 then
  call("ZADD", KEYS[5], unpack(leases))
  call("LPUSH", KEYS[4], unpack(ids))
end
if grows then
  call("ZREM", KEYS[5], LONG)
end
call("LTRIM", KEYS[2], 0, -looked - 1)
for _, held_task in ipairs(tasks) do
  call("HSET", held_task, "state", "active", "owner", owner)
end
return answer(state, moment, taken, ids, strays)
