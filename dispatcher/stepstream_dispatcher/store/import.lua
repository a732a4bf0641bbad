-- stepstream/import version 5
--
-- Purpose: take in a task that was processed while Redis was away, in place of its record, if any.
-- KEYS   1 counts, 2 index, 3 delayed, 4 ended, 5 record, 6 data, 7 history, 8 input, 9 lane of the
--        record's entry, 10 set of the state left, 11 set of the state entered (any key where unused);
--        then workers.
-- ARGV   1 consumer group, 2 channel of events, 3 task id, 4 version that the record must have (empty:
--        there must be none), 5 entry to delete, 6 state left, 7 state entered, 8 whether states 10 and
--        11 have sets ("01": only the second), 9 since when, 10 due time, 11 time of expiry (empty:
--        none), 12 created, 13 change of the live tasks, 14 retries, 15 the last event as published, 16
--        the input; then how many of each, and these: pairs of record fields, pairs of data fields, events, and
--        pairs of tally and amount, one for each worker key.
-- Reply  1 if it was taken in, 0 if the record is another by now; then nothing changed.
-- Effect the entry goes, so that nobody is handed the task again, and the lease with the record.
-- Cost   about 15 commands, and one for each event.

local call = redis.call
local group, channel, task_id, expected, entry, left, entered, sets = unpack(ARGV, 1, 8)
local since, due, expires, created, live, retries, published, input = unpack(ARGV, 9, 16)
local EVENTS_MAX, CHUNK, WORKER_KEPT_S = 1000, 1000, 600

local version = call('HGET', KEYS[5], 'version') or ''
if version ~= expected then return 0 end

local at = 17
local function each(store)
  local amount = tonumber(ARGV[at])
  for first = at + 1, at + amount, CHUNK do
    store(unpack(ARGV, first, math.min(first + CHUNK - 1, at + amount)))
  end
  at = at + amount + 1
end

if entry ~= '' then
  call('XACK', KEYS[9], group, entry)
  call('HINCRBY', KEYS[1], 'entries', 0 - call('XDEL', KEYS[9], entry))
end
call('DEL', KEYS[5], KEYS[6])
if version == '' then call('DEL', KEYS[7]) end -- of a life that has expired and was not trimmed
each(function(...) call('HSET', KEYS[5], ...) end)
each(function(...) call('HSET', KEYS[6], ...) end)
each(function(...) call('RPUSH', KEYS[7], ...) end)
call('LTRIM', KEYS[7], -EVENTS_MAX, -1)
call('SET', KEYS[8], input)
call('HINCRBY', KEYS[1], 'listed', call('ZADD', KEYS[2], created, task_id))
local timers = 0 - call('ZREM', KEYS[3], task_id) -- never -0: HINCRBY of Redis before 7.2.5 refuses it
if due ~= '' then timers = timers + call('ZADD', KEYS[3], due, task_id) end
call('HINCRBY', KEYS[1], 'timers', timers)
if left ~= '' then call('HINCRBY', KEYS[1], left, -1) end
call('HINCRBY', KEYS[1], entered, 1)
if string.sub(sets, 1, 1) == '1' then call('ZREM', KEYS[10], task_id) end
if string.sub(sets, 2, 2) == '1' then call('ZADD', KEYS[11], since, task_id) end
call('HINCRBY', KEYS[1], 'live', live)
call('HINCRBY', KEYS[1], 'retries', retries)
if expires ~= '' then
  call('PEXPIREAT', KEYS[5], expires) -- the janitor takes the rest
  if call('ZADD', KEYS[4], expires, entered .. ' ' .. task_id) == 0 then
    call('HINCRBY', KEYS[1], entered, -1) -- that of a life that has expired and was not trimmed
  end
end
for worker = 12, #KEYS do
  if call('HINCRBY', KEYS[worker], ARGV[at], ARGV[at + 1]) == tonumber(ARGV[at + 1]) then
    call('EXPIRE', KEYS[worker], WORKER_KEPT_S)
  end
  at = at + 2
end
call('PUBLISH', channel, published)
return 1
