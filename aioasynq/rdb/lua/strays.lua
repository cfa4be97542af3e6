-- strays: which ids of a place have no task; take them out.
-- uses: may, place
--
-- KEYS[1]   place   list, sorted set
-- KEYS[2..] task    hash; one for each id
-- ARGV[1]   1 to look only
-- ARGV[2..] id; for each task
--
-- Returns those that stand there and have no task. Ids that have left the place meanwhile are no strays.

local is_list = redis.call("TYPE", KEYS[1]).ok == "list"
if ARGV[1] ~= "1" then
  may("LREM", KEYS[1], "ZREM", KEYS[1])
end

local function stands(id)
  if is_list then
    return redis.call("LPOS", KEYS[1], id, "RANK", -1)
  end
  return redis.call("ZSCORE", KEYS[1], id)
end

local function take_out(id)
  if is_list then
    redis.call("LREM", KEYS[1], 0, id)
  else
    redis.call("ZREM", KEYS[1], id)
  end
end

local found = {}
for i = 2, #KEYS do
  local id = ARGV[i]
  if state_of(KEYS[i]) == nil and stands(id) then
    found[#found + 1] = id
    if ARGV[1] ~= "1" then
      take_out(id)
    end
  end
end
return found
