-- next_in_list: the ids after one that was seen, in the order in which they run: from the right to the left.
--
-- KEYS[1]  ids that wait or run   list
-- ARGV[1]  how many
-- ARGV[2]  how many places from the right the first of ARGV[3..] was found, 0 before the first call
-- ARGV[3..] ids that were seen, the last one first
--
-- Returns {how many places from the right the last of them is, id, …}. When none of those seen is left, it begins again
-- at the right: what ran is gone. Of a long list not every one seen is looked for, since each that is gone costs a walk
-- through all of it: those on the left leave last.

local seen = 0
if ARGV[2] ~= "0" and redis.call("LINDEX", KEYS[1], -tonumber(ARGV[2])) == ARGV[3] then
  seen = tonumber(ARGV[2])
else
  local length = redis.call("LLEN", KEYS[1])
  local i, step = 3, 1
  while i <= #ARGV and ARGV[i] ~= "" do
    local index = redis.call("LPOS", KEYS[1], ARGV[i], "RANK", -1)
    if index then
      seen = length - index
      break
    end
    if length > 1000 then
      step = step * 2
    end
    i = i + step
  end
end
local found = redis.call("LRANGE", KEYS[1], -(seen + ARGV[1]), -(seen + 1))
local answer = { seen + #found }
for i = #found, 1, -1 do
  answer[#answer + 1] = found[i]
end
return answer
