-- record_scheduler_enqueue_event: note that a periodic task was enqueued. The same event twice is one.
--
-- KEYS[1]  history  sorted set
-- ARGV[1]  when, unix seconds
-- ARGV[2]  SchedulerEnqueueEvent
-- ARGV[3]  how many to keep
-- ARGV[4]  seconds to keep them after the last one
--
-- Returns 1.

redis.call("ZADD", KEYS[1], ARGV[1], ARGV[2])
redis.call("ZREMRANGEBYRANK", KEYS[1], 0, -1 - ARGV[3])
redis.call("EXPIRE", KEYS[1], ARGV[4])
return 1
