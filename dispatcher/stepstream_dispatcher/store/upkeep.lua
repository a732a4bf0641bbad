-- stepstream/upkeep version 1
--
-- Purpose: what dispatchers write about themselves and for operators, which a full Redis must take.
-- KEYS   one for each command, in order.
-- ARGV   for each command: how many of its words stand before the key, how many there are, the words.
-- Reply  1
-- Cost   one command for each key.

local at = 1
for i = 1, #KEYS do
  local before, count = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local words = { unpack(ARGV, at + 2, at + 1 + count) }
  table.insert(words, before + 1, KEYS[i])
  redis.call(unpack(words))
  at = at + 2 + count
end
return 1
