-- write_scheduler_entries: tell what a scheduler enqueues, in place of what it told before.
--
-- KEYS[1]  entries  list
-- ARGV[1]  seconds to keep them
-- ARGV[2..] SchedulerEntry; one for each entry
--
-- Returns 1.

redis.call("DEL", KEYS[1])
for i = 2, #ARGV do
  redis.call("LPUSH", KEYS[1], ARGV[i])
end
redis.call("EXPIRE", KEYS[1], ARGV[1])
return 1
