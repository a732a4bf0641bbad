-- stepstream/drop_timers version 2
--
-- Purpose: take the timers of tasks that are gone out of the delayed set.
-- KEYS   1 delayed, 2 counts; then the record of each task.
-- ARGV   task ids.
-- Reply  how many were taken out.
-- Effect a task that has a record keeps its timer: it may have been submitted anew meanwhile.
-- Cost   2 commands for each task, at most 500 tasks a call.

local call = redis.call
local dropped = 0
for i = 1, #ARGV do
  if call('EXISTS', KEYS[i + 2]) == 0 then
    dropped = dropped + call('ZREM', KEYS[1], ARGV[i])
  end
end
if dropped > 0 then call('HINCRBY', KEYS[2], 'timers', -dropped) end
return dropped
