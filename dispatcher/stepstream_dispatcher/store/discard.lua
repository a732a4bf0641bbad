-- stepstream/discard version 1
--
-- Purpose: acknowledge and delete entries that are no task's current one.
-- KEYS   1 counts, 2 lane.
-- ARGV   1 consumer group; then ids of entries.
-- Reply  how many were deleted.
-- Cost   3 commands.

local call, group = redis.call, ARGV[1]
call('XACK', KEYS[2], group, unpack(ARGV, 2))
local deleted = call('XDEL', KEYS[2], unpack(ARGV, 2))
if deleted > 0 then call('HINCRBY', KEYS[1], 'entries', -deleted) end
return deleted
