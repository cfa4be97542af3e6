-- leases: the leases of tasks by their ids, each a score as text, or false. The ids are one in every *step* arguments,
-- from *first* on.
local function leases_of(key, first, step)
  local ids, by_id = {}, {}
  for i = first, #ARGV, step do
    ids[#ids + 1] = ARGV[i]
  end
  local scores = redis.call("ZMSCORE", key, unpack(ids))
  for i, id in ipairs(ids) do
    by_id[id] = scores[i]
  end
  return by_id
end
