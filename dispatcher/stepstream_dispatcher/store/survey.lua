-- stepstream/survey version 2
--
-- Purpose: read records beside what the indexes hold of them, each pair at one instant.
-- KEYS   1 index, 2 delayed, 3 ended; then lanes, then sets of states, then the record of each task.
-- ARGV   1 consumer group, 2 how many lanes, 3 how many sets, 4 "quick" (leave out whether entries are
--        there, which is half of the cost), "whole", or "thorough" (look for every end of a task); then
--        names of queues, of states, and ids of tasks, as their keys are ordered.
-- Reply  microseconds of processor time (-1: unknown); the last entry that each lane has delivered
--        (empty: it has no group); then for each task: its record's fields in the order of FIELDS (the first is false
--        where there is no record), its score in index, delayed set and set of its state (or false),
--        the names of states that it has ended in, when its record expires (Unix ms; < 0: never),
--        whether its entry is there (1 or 0), and who has that pending (empty: nobody); or 0, where its
--        key holds no record that can be looked at.
-- Cost   4 to 8 commands for each task, at most 500 tasks a call.

local call = redis.call
local timed, clock = pcall(function() return os.clock end) -- Redis 7.0 has no `os`
local began = timed and clock()
local group, lanes, sets = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local quick, thorough = ARGV[4] == 'quick', ARGV[4] == 'thorough'
local FIELDS = { 'version', 'state', 'stage', 'pipeline', 'step', 'queue', 'entry', 'lease', 'owner',
  'due_ms', 'deadline_ms', 'created_ms', 'updated_ms' }
local ENDS = { 'done', 'failed', 'cancelled' }
local key_of_queue, key_of_state, delivered = {}, {}, {}

for i = 1, lanes do
  local lane = KEYS[3 + i]
  key_of_queue[ARGV[4 + i]], delivered[i] = lane, ''
  local known = call('EXISTS', lane) == 1 and call('XINFO', 'GROUPS', lane) or {}
  for _, about in ipairs(known) do
    if about[2] == group then delivered[i] = about[8] end
  end
end
for i = 1, sets do key_of_state[ARGV[4 + lanes + i]] = KEYS[3 + lanes + i] end

local function entry_of(lane, entry)
  local there = quick and {} or call('XRANGE', lane, entry, entry)
  local pending = redis.pcall('XPENDING', lane, group, entry, entry, 1)
  return #there, not pending.err and pending[1] and pending[1][2] or ''
end

local function look(record, task_id)
  local now = call('HMGET', record, unpack(FIELDS))
  local state, stage, queue, entry = now[2], now[3], now[6], now[7]
  local set, lane = key_of_state[state], key_of_queue[queue]
  local ends, there, holder = {}, 0, ''
  for _, ending in ipairs(ENDS) do
    if thorough or stage == 'ended' and state == ending then
      if call('ZSCORE', KEYS[3], ending .. ' ' .. task_id) then ends[#ends + 1] = ending end
    end
  end
  if lane and entry and entry ~= '' and (stage == 'queued' or stage == 'leased') then
    there, holder = entry_of(lane, entry)
  end
  return { now, call('ZSCORE', KEYS[1], task_id), call('ZSCORE', KEYS[2], task_id),
    set and call('ZSCORE', set, task_id) or false, ends,
    stage == 'ended' and call('PEXPIRETIME', record) or -1, there, holder }
end

local rows = {}
for i = 1, #KEYS - 3 - lanes - sets do
  local fine, row = pcall(look, KEYS[3 + lanes + sets + i], ARGV[4 + lanes + sets + i])
  rows[i] = fine and row or 0
end
return { timed and math.floor((clock() - began) * 1000000) or -1, delivered, rows }
