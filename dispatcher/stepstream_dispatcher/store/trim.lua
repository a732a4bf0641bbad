-- stepstream/trim version 3
--
-- Purpose: forget ended tasks, those that expired by themselves or those beyond a limit.
-- KEYS   1 ended, 2 index, 3 counts, 4 set of the failed, 5 there while ended tasks are counted; then
--        record, data, history and input of each task.
-- ARGV   1 "expired" (leave what still has a record) or "surplus" (delete the record too); then for
--        each task its member of `ended`, state and id.
-- Reply  how many were dropped; none while ended tasks are counted.
-- Effect a task that lives again (redriven, or submitted anew after it expired) keeps all its keys,
--        also when it has ended again: a member of another state than the record's is of a life before.
-- Cost   5 commands for each task, at most 500 tasks a call.

local call = redis.call
if call('EXISTS', KEYS[5]) == 1 then return 0 end
local dropped, unlisted = 0, 0
for i = 2, #ARGV, 3 do
  local member, state, task_id = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local at = 6 + (i - 2) / 3 * 4
  local stage, now = unpack(call('HMGET', KEYS[at], 'stage', 'state'))
  local is_its_end = stage == 'ended' and now == state
  if not (is_its_end and ARGV[1] == 'expired') and call('ZREM', KEYS[1], member) == 1 then
    dropped = dropped + 1
    call('HINCRBY', KEYS[3], state, -1)
    if is_its_end or not stage then
      call('DEL', unpack(KEYS, at, at + 3))
      unlisted = unlisted + call('ZREM', KEYS[2], task_id)
    end
    if is_its_end or now ~= 'failed' then call('ZREM', KEYS[4], task_id) end
  end
end
if unlisted > 0 then call('HINCRBY', KEYS[3], 'listed', -unlisted) end
return dropped
