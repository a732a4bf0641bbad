-- stepstream/upkeep version 1
--
-- Purpose: carry out commands that a full Redis would refuse, and without which its work does not drain:
--          who is alive, which lanes there are, what operators want.
-- KEYS   every key that a command names.
-- ARGV   for each command how many words it has, then these.
-- Effect that of the commands, in order; the first that fails ends it.
-- Cost   the commands, a handful of words each.

local at = 1
while at <= #ARGV do
  local words = tonumber(ARGV[at])
  redis.call(unpack(ARGV, at + 1, at + words))
  at = at + words + 1
end
