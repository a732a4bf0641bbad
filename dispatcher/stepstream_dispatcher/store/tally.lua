-- stepstream/tally version 1
--
-- Purpose: read at one instant what the scripts have counted, and how large what they count is.
-- KEYS   1 counts, 2 index, 3 delayed, 4 ended; then sets of states, then lanes.
-- ARGV   1 consumer group, 2 how many sets of states, 3 channel, 4 what to publish there (empty:
--        nothing), so that a listener knows which events are in the counts.
-- Reply  the counts, flat; sizes of index, delayed, ended and each set of a state; the length of each
--        lane; 1 for each lane that has the group, else 0.
-- Cost   5 commands, 1 for each set, 2 for each lane; all O(1).

local call = redis.call
local group, sets, channel, payload = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local sizes, lengths, groups = {}, {}, {}
for i = 2, 4 + sets do sizes[i - 1] = call('ZCARD', KEYS[i]) end
for i = 5 + sets, #KEYS do
  local at = i - 4 - sets
  lengths[at], groups[at] = call('XLEN', KEYS[i]), 0
  local known = call('EXISTS', KEYS[i]) == 1 and call('XINFO', 'GROUPS', KEYS[i]) or {}
  for _, about in ipairs(known) do
    if about[2] == group then groups[at] = 1 end
  end
end
if payload ~= '' then call('PUBLISH', channel, payload) end
return { call('HGETALL', KEYS[1]), sizes, lengths, groups }
