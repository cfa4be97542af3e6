-- next_in_set: the ids after one that was seen, by their scores, and those of one score by their bytes.
--
-- KEYS[1]  ids   sorted set
-- ARGV[1]  how many
-- ARGV[2]  score of the last one that was seen, or empty before the first call
-- ARGV[3]  that id
--
-- Returns {id, score, …}. It does not matter whether the one that was seen is still there.

local start = 0
if ARGV[2] ~= "" then
  local stands_at = redis.call("ZSCORE", KEYS[1], ARGV[3])
  if stands_at == ARGV[2] then
    start = redis.call("ZRANK", KEYS[1], ARGV[3]) + 1
  else
    start = redis.call("ZCOUNT", KEYS[1], "-inf", "(" .. ARGV[2])
    local same = redis.call("ZCOUNT", KEYS[1], ARGV[2], ARGV[2])
    local low, high = 0, same -- the first of the same score that comes after it
    while low < high do
      local middle = math.floor((low + high) / 2)
      if redis.call("ZRANGE", KEYS[1], start + middle, start + middle)[1] <= ARGV[3] then
        low = middle + 1
      else
        high = middle
      end
    end
    start = start + low
  end
end
return redis.call("ZRANGE", KEYS[1], start, start + ARGV[1] - 1, "WITHSCORES")
