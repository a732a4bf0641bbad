-- stepstream/leave version 1
--
-- Purpose: write that workers have left a dispatcher, unless another one has saved them since.
-- KEYS   1 workers, 2 instances that are to leave; then the hash of each worker.
-- ARGV   1 the dispatcher, 2 now in Unix ms, 3 how long a worker is kept, in seconds; then names, as
--        the hashes are ordered.
-- Effect an instance that was to leave is no longer: it has.
-- Cost   1 command for each worker, 4 or 5 if it has left; at most 500 workers a call.

local call, unpack = redis.call, unpack
local dispatcher, now_ms, kept_s = unpack(ARGV, 1, 3)
for i = 3, #KEYS do
  local worker = KEYS[i]
  local at, instance, draining = unpack(call('HMGET', worker, 'dispatcher', 'instance', 'draining'))
  if at == dispatcher then
    call('HSET', worker, 'is_running', 0, 'current_tasks', 0, 'draining', 0, 'seen_ms', now_ms)
    call('EXPIRE', worker, kept_s)
    call('ZADD', KEYS[1], now_ms, ARGV[i + 1])
    if draining == '1' and instance then call('ZREM', KEYS[2], instance) end
  end
end
