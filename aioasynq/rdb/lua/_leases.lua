-- leases: the leases of tasks by their ids, each a score as text, or false. The ids are one in every *step* arguments,
-- from *first* on.
-- To write a score as text takes Redis longer than to read a field of a hash. Tasks that were taken together have one
-- lease, and mostly they end together: so it is asked who has that of the first, and what the others have.
local function leases_of(key, first, step)
  local by_id, others, n = {}, {}, math.floor((#ARGV - first) / step) + 1
  local lease = n > 2 and redis.call("ZSCORE", key, ARGV[first])
  if lease then
    for _, id in ipairs(redis.call("ZRANGEBYSCORE", key, lease, lease, "LIMIT", 0, 2 * n)) do
      by_id[id] = lease
    end
  end
  for i = first, #ARGV, step do
    if not by_id[ARGV[i]] then
      others[#others + 1] = ARGV[i]
    end
  end
  if #others > 0 then
    local scores = redis.call("ZMSCORE", key, unpack(others))
    for i, id in ipairs(others) do
      by_id[id] = scores[i]
    end
  end
  return by_id
end
