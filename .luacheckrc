-- What Redis gives a script, and what helper files (_*.lua) define for the scripts that name them under "uses:".
std = "lua51"
max_line_length = 120
read_globals = { "KEYS", "ARGV", "redis", "cjson", "cmsgpack", "bit", "struct" }

-- A helper file stands in front of the scripts that use it, so its top-level locals are known there, and not used in it.
local helpers = {}
local listing = io.popen("ls aioasynq/rdb/lua/_*.lua 2>/dev/null")
for path in listing:lines() do
  for line in io.lines(path) do
    local name = line:match("^local function ([%w_]+)") or line:match("^local ([%w_]+)")
    if name then
      helpers[#helpers + 1] = name
      read_globals[#read_globals + 1] = name
    end
  end
end
listing:close()

local unused = {}
for _, name in ipairs(helpers) do
  unused[#unused + 1] = "211/" .. name
end
files["**/_*.lua"] = { ignore = unused }
