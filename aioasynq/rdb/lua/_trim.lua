-- trim: let go of what the archive cannot hold, at most 1,000 tasks: those archived *age* seconds ago, and those that
-- are more than *size*. They lose their hash and their lock.
-- One that is under way to another node of a Cluster stays until the next time.
local function trim(archived, prefix, now, size, age)
  local function let_go(ids)
    for _, id in ipairs(ids) do
      local task = prefix .. id
      unlock(redis.pcall("HGET", task, "unique_key"), id)
      if type(redis.pcall("DEL", task)) == "number" then
        redis.call("ZREM", archived, id)
      end
    end
  end
  let_go(redis.call("ZRANGEBYSCORE", archived, "-inf", math.floor(now) - tonumber(age), "LIMIT", 0, 500))
  local extra = redis.call("ZCARD", archived) - tonumber(size)
  if extra > 0 then
    let_go(redis.call("ZRANGE", archived, 0, math.min(extra, 500) - 1))
  end
end
