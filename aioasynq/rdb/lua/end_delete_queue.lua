-- end_delete_queue: forget the rest of a queue that holds no tasks any more.
-- uses: may, emptiness
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
-- KEYS[11..] counters and whatever else is left   string, …
-- ARGV[1]   prefix of the queue's groups
-- ARGV[2]   1 if it was paused before
--
-- Returns 1 when nothing is left, 0 when there are tasks again; then it is no longer paused, unless it was before.

may("DEL", KEYS[10])
if runs() or waits(ARGV[1]) then
  if ARGV[2] ~= "1" then
    redis.call("DEL", KEYS[10])
  end
  return 0
end
redis.call("DEL", KEYS[8], KEYS[10])
for i = 11, #KEYS do
  redis.call("DEL", KEYS[i])
end
return 1
