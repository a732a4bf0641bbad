-- stepstream/repair version 2
--
-- Purpose: put tasks into sorted sets, or take them out, as their records say.
-- KEYS   1 counts, 2 index, 3 delayed, 4 ended; then sets of states; then record, data, history and
--        input of each task.
-- ARGV   1 how many sets of states; then for each task: the version that its record must have (empty:
--        there must be none), the position of the set among KEYS, the member, and its score (empty:
--        it is taken out).
-- Reply  how many sets have changed; then the tasks that have moved, by their place in the call.
-- Effect a task that has moved since it was looked at keeps all as it is. What leaves the index without
--        a record leaves nothing behind. `timers` and `listed` follow, as in commit.lua; the other counts do not.
-- Cost   2 to 3 commands for each task, at most 500 tasks a call.

local call = redis.call
local sets = tonumber(ARGV[1])
local reply, gained = { 0 }, { [2] = 0, [3] = 0 }
for i = 0, (#KEYS - 4 - sets) / 4 - 1 do
  local version, place, member, score = unpack(ARGV, 2 + 4 * i, 5 + 4 * i)
  local set, at = tonumber(place), 5 + sets + 4 * i
  if (call('HGET', KEYS[at], 'version') or '') == version then
    local touched, gain
    if score == '' then
      touched = call('ZREM', KEYS[set], member)
      if set == 2 and version == '' then call('DEL', unpack(KEYS, at + 1, at + 3)) end
      gain = 0 - touched
    else
      gain = call('ZADD', KEYS[set], score, member)
      touched = 1
    end
    reply[1] = reply[1] + touched
    if gained[set] then gained[set] = gained[set] + gain end
  else
    reply[#reply + 1] = i
  end
end
if gained[2] ~= 0 then call('HINCRBY', KEYS[1], 'listed', gained[2]) end
if gained[3] ~= 0 then call('HINCRBY', KEYS[1], 'timers', gained[3]) end
return reply
