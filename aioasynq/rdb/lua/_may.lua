-- may: stop before anything is written when this user may not run one of the commands that follow, given as pairs of a
-- command and a key. Only Redis 7 and later can tell beforehand.
local function may(...)
  if not redis.acl_check_cmd then
    return
  end
  local pairs_given = { ... }
  for i = 1, #pairs_given, 2 do
    local command, key = pairs_given[i], pairs_given[i + 1]
    if not redis.acl_check_cmd(command, key) then
      error({ err = "NOPERM this user may not run " .. command .. " on " .. key })
    end
  end
end
