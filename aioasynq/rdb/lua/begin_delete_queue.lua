-- begin_delete_queue: pause a queue that is to be deleted, unless it holds tasks that forbid it.
-- uses: clock, may, emptiness
--
-- KEYS[1]   pending            list
-- KEYS[2]   active             list
-- KEYS[3]   lease              sorted set
-- KEYS[4]   scheduled          sorted set
-- KEYS[5]   retry              sorted set
-- KEYS[6]   archived           sorted set
-- KEYS[7]   completed          sorted set
-- KEYS[8]   groups             set
-- KEYS[9]   aggregation sets   sorted set
-- KEYS[10]  paused             string
-- ARGV[1]   now   unix seconds, or empty
-- ARGV[2]   prefix of the queue's groups
-- ARGV[3]   1 to delete it although tasks wait in it
--
-- Returns 1 when it may be deleted, 2 when it may be and was paused before, 0 when it holds tasks, -1 when tasks run.

if runs() then
  return -1
elseif ARGV[3] ~= "1" and waits(ARGV[2]) then
  return 0
end
may("SET", KEYS[10])
if redis.call("EXISTS", KEYS[10]) == 1 then
  return 2
end
redis.call("SET", KEYS[10], string.format("%.0f", math.floor(clock(ARGV[1]))))
return 1
