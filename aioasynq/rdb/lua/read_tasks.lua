-- read_tasks: all that is known of tasks.
-- uses: place
--
-- KEYS[1]   lease      sorted set
-- KEYS[2..] task       hash; one for each task
-- ARGV[1]   prefix of the queue's keys
-- ARGV[2..] id; for each task
--
-- Returns for each {state, message, result, error, score, pending since, group, progress, what it is at}, each "" where
-- there is none, or "" for an id without a task. The score is the one with which it stands in its place, that of its
-- lease when it runs.

local FIELDS = { "msg", "result", "error", "pending_since", "group", "progress", "progress_text" }

local answers = {}
for i = 2, #KEYS do
  local id, state = ARGV[i], state_of(KEYS[i])
  if not state then
    answers[#answers + 1] = ""
  else
    local found = redis.call("HMGET", KEYS[i], unpack(FIELDS))
    local place = ARGV[1] .. state
    if state == "active" then
      place = KEYS[1]
    elseif state == "aggregating" then
      place = ARGV[1] .. "g:" .. (found[5] or "")
    end
    local place_score = state ~= "pending" and redis.pcall("ZSCORE", place, id)
    if type(place_score) ~= "string" then
      place_score = ""
    end
    answers[#answers + 1] = {
      state,
      found[1] or "",
      found[2] or "",
      found[3] or "",
      place_score,
      found[4] or "",
      found[5] or "",
      found[6] or "",
      found[7] or "",
    }
  end
end
return answers
