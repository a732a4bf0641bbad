-- stepstream/commit version 5
--
-- Purpose: guard and carry out up to 256 transitions, each by itself. Python decides, this moves.
-- KEYS   1 counts, 2 index, 3 delayed, 4 ended, 5 attempts ended this minute; then record, data,
--        history and input of each transition in turn; then lanes, state sets and workers, which
--        transitions name by position (0: none).
-- ARGV   1 consumer group, 2 channel of events, 3 most live tasks (0: no limit), 4 how many
--        transitions, 5 whether they carry their events as published (1 or 0); then one MessagePack array for each, its elements in the order of the locals of `apply`:
--        fields are flat and all text, with an empty `entry` at their end where a lane is named, and
--        after it an empty `ops` unless a step is settled; times are Unix ms, retention is in seconds,
--        what does not apply is empty; then bytes, which the unpacker does not take: of each
--        transition, from where it says, the event as published, the event as kept (empty: it says
--        no more than the record of a task that was just created), and the values of `names`.
-- Reply  Redis TIME in s and the us within it; whether anybody listens to the channel here (1 or 0),
--        and nothing more, with nothing done, if so and the events are not carried; then for each transition a word: APPLIED, DUPLICATE,
--        STALE_LEASE, NOT_FOUND or FULL, or a pair {APPLIED, id of the added entry},
--        {VERSION_CONFLICT or DUPLICATE, record} or {ERROR, message}.
-- Effect guards first, then this order, so that a prefix is harmless: lane, data, record, the rest.
--        Events are published where they are carried. A transition that fails half-way is answered ERROR and leaves the others whole. The counts
--        `entries`, `timers` and `listed` follow what the commands answer: they say how large lanes,
--        delayed set and index are, unless somebody else has changed them.
-- Cost   about 6 commands for each transition, and 2 for each lane, 1 for each count and worker a call.

local call, unpack, find = redis.call, unpack, string.find
local group, channel, live_max, published = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[5] == '1'
local HISTORY_MAX, OP_ID_LENGTH, OPS_LENGTH, WORKER_KEPT_S, MINUTE_KEPT_S = 1000, 8, 64, 600, 180
local SUBMITTED = 1 -- the number of the event's type
local acks, counts, tallies, settled = {}, {}, {}, 0
local entries, timers, listed = 0, 0, 0 -- what lanes, delayed set and index have gained
local live = live_max > 0 and tonumber(call('HGET', KEYS[1], 'live') or 0) or 0

local function add(totals, key, change)
  totals[key] = (totals[key] or 0) + change
end

local function is_heard()
  local names, patterns = redis.pcall('PUBSUB', 'NUMSUB', channel), redis.pcall('PUBSUB', 'NUMPAT')
  -- Who may not ask takes it for granted.
  return names.err or type(patterns) ~= 'number' or names[2] > 0 or patterns > 0
end

local function is_kept(ops, op_id)
  local at = find(ops, op_id, 1, true)
  while at and (at - 1) % OP_ID_LENGTH ~= 0 do
    at = find(ops, op_id, at + 1, true)
  end
  return at
end

local function refusal(record, was, expected, lease, settling, op_id, touch)
  local version, held, ops, settled_by = unpack(was, 1, 4)
  if not version then
    return expected == '0' and (live_max == 0 or live < live_max) and 'NEW'
      or expected == '0' and 'FULL' or 'NOT_FOUND'
  elseif not touch and (settling ~= '' and settled_by == lease or is_kept(ops or '', op_id)) then
    return expected == '0' and { 'DUPLICATE', call('HGETALL', record) } or 'DUPLICATE'
  elseif lease ~= '' and held ~= lease then
    return 'STALE_LEASE'
  elseif not touch and version ~= expected then
    return { 'VERSION_CONFLICT', call('HGETALL', record) }
  end
end

local function set_data(data, input, names, bytes)
  for i = 1, #names do
    local value = ARGV[bytes + 1 + i]
    if names[i] == 'input' then call('SET', input, value, 'KEEPTTL')
    else call('HSET', data, names[i], value) end
  end
end

local function keep_event(history, kept, was)
  if kept == '' then return end
  local created, state, step = unpack(was, 5, 7)
  local tells = created and state and step
  if tells and call('EXISTS', history) == 0 then -- its first event was not kept by its creation
    local first = cmsgpack.pack({ 1, tonumber(created), SUBMITTED, state, step })
    call('RPUSH', history, first, kept)
  elseif call('RPUSH', history, kept) > HISTORY_MAX then
    call('LTRIM', history, -HISTORY_MAX, -1)
  end
end

local function apply(at, packed)
  local record, data, history, input = unpack(KEYS, at, at + 3)
  local task_id, op_id, expected, lease, settling, touch, fields, names, ack_lane, ack_id, lane, step,
    due, left, entered, left_set, entered_set, since, live_change, retries, retain_s, expires, ended,
    worker, tally, created, bytes = unpack(cmsgpack.unpack(packed), 1, 27)

  local was = expected == '1'
    and call('HMGET', record, 'version', 'lease', 'ops', settling, 'created_ms', 'state', 'step')
    or call('HMGET', record, 'version', 'lease', 'ops', settling)
  local refused = refusal(record, was, expected, lease, settling, op_id, touch)
  if refused and refused ~= 'NEW' then return refused end

  if touch then
    call('HSET', record, unpack(fields))
    if published then call('PUBLISH', channel, ARGV[bytes]) end
    return 'APPLIED'
  end
  local last, entry = #fields, nil
  if settling == '' then
    fields[last] = string.sub((was[3] or '') .. op_id, -OPS_LENGTH)
    last = last - 2
  end
  if lane > 0 then
    entry = call('XADD', KEYS[lane], '*', 'task', task_id, 'step', step)
    fields[last] = entry
    entries = entries + 1
  end
  if refused == 'NEW' then call('DEL', data, history) end -- of a life that was not trimmed yet
  set_data(data, input, names, bytes)
  call('HSET', record, unpack(fields))
  keep_event(history, ARGV[bytes + 1], was)
  if published then call('PUBLISH', channel, ARGV[bytes]) end
  if ack_lane > 0 then
    local ids = acks[ack_lane] or {}
    acks[ack_lane], ids[#ids + 1] = ids, ack_id
  end
  if due == 'no' then timers = timers - call('ZREM', KEYS[3], task_id)
  elseif due ~= '' then timers = timers + call('ZADD', KEYS[3], due, task_id) end
  if refused == 'NEW' then listed = listed + call('ZADD', KEYS[2], created, task_id) end
  if left ~= entered then
    if left ~= '' then add(counts, left, -1) end
    if entered ~= '' then add(counts, entered, 1) end
    if left_set > 0 then call('ZREM', KEYS[left_set], task_id) end
    if entered_set > 0 then call('ZADD', KEYS[entered_set], since, task_id) end
  end
  if live_change ~= 0 then
    add(counts, 'live', live_change)
    live = live + live_change
  end
  if retries then add(counts, 'retries', 1) end
  if retain_s > 0 then
    call('EXPIRE', record, retain_s) -- alone, which spares a fifth of all: the janitor takes the rest
    -- Already there: the same end of a life that has expired and was not trimmed, counted until now.
    local added = call('ZADD', KEYS[4], expires, ended)
    if added == 0 and entered ~= '' then add(counts, entered, -1) end
  elseif retain_s < 0 then
    for key = at, at + 3 do call('PERSIST', KEYS[key]) end
    call('ZREM', KEYS[4], ended)
  end
  if worker > 0 then
    tallies[worker] = tallies[worker] or {}
    add(tallies[worker], tally, 1)
    settled = settled + 1
  end
  return entry and { 'APPLIED', entry } or 'APPLIED'
end

local time = call('TIME')
local reply = { time[1], time[2], is_heard() and 1 or 0 }
if reply[3] == 1 and not published then return reply end
for i = 1, tonumber(ARGV[4]) do
  local done, answer = pcall(apply, 4 * i + 2, ARGV[i + 5])
  reply[i + 3] = done and answer or { 'ERROR', type(answer) == 'table' and answer.err or answer }
end
for lane, ids in pairs(acks) do
  call('XACK', KEYS[lane], group, unpack(ids))
  entries = entries - call('XDEL', KEYS[lane], unpack(ids))
end
if entries ~= 0 then counts.entries = entries end
if timers ~= 0 then counts.timers = timers end
if listed ~= 0 then counts.listed = listed end
for name, change in pairs(counts) do
  if change ~= 0 then call('HINCRBY', KEYS[1], name, change) end
end
if settled > 0 and call('INCRBY', KEYS[5], settled) == settled then
  call('EXPIRE', KEYS[5], MINUTE_KEPT_S)
end
for worker, changes in pairs(tallies) do
  for name, change in pairs(changes) do
    if call('HINCRBY', KEYS[worker], name, change) == change then
      call('EXPIRE', KEYS[worker], WORKER_KEPT_S)
    end
  end
end
return reply
