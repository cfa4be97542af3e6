-- write_progress: keep how far a handler says it is.
-- uses: mine, awaited
--
-- KEYS[1]  task    hash
-- KEYS[2]  lease   sorted set
-- KEYS[3]  active  list
-- ARGV[1]  id
-- ARGV[2]  the part that is done, from 0 to 1
-- ARGV[3]  what it is at
-- ARGV[4]  token of the owner
--
-- Returns 1 when written, 0 when there is no such task, or it belongs to somebody else by now.

if not mine(KEYS[1], redis.call("ZSCORE", KEYS[2], ARGV[1]), ARGV[4]) then
  return 0
end
redis.call("HSET", KEYS[1], "progress", ARGV[2], "progress_text", ARGV[3])
tell_ended(KEYS[3], { ARGV[1] })
return 1
