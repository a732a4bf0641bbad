-- stepstream/forget version 1
--
-- Purpose: take a dead consumer out of every lane's group, because deleting one destroys what it holds.
-- KEYS   1 dispatchers; then lanes.
-- ARGV   1 consumer group, 2 consumer.
-- Reply  1 if it is forgotten, 0 if it still holds an entry of some lane; then nothing changed.
-- Cost   2 commands for each lane.

local call = redis.call
local group, consumer = ARGV[1], ARGV[2]
for i = 2, #KEYS do
  if #call('XPENDING', KEYS[i], group, '-', '+', 1, consumer) > 0 then return 0 end
end
for i = 2, #KEYS do call('XGROUP', 'DELCONSUMER', KEYS[i], group, consumer) end
call('ZREM', KEYS[1], consumer)
return 1
