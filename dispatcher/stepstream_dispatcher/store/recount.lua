-- stepstream/recount version 1
--
-- Purpose: correct the counts by what a sweep has found, once.
-- KEYS   1 counts, 2 who sweeps, 3 there while ended tasks are counted.
-- ARGV   1 the dispatcher that has swept; then pairs of a count and its correction.
-- Reply  1 if they were corrected, 0 if another dispatcher sweeps by now; then nothing changed.
-- Effect corrections are added, so that what was counted meanwhile stays counted. The sweep is over by
--        that, so that a call that is sent again changes nothing.
-- Cost   2 commands, and one for each count.

local call = redis.call
if call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
for i = 2, #ARGV, 2 do call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1]) end
call('DEL', KEYS[2], KEYS[3])
return 1
