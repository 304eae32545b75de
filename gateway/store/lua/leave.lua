-- A request leaves: settle, mark its answer, put what may be kept.
-- KEYS: labels, usage, values…. ARGV: 1 now, 2 run, 3 seed, 4 remembered epoch, 5 settles, 6 labels,
-- 7 marks of the answer (one or none), 8 id, 9 tokens, 10 usd, then value and seconds to live of each value.
local now = now_ms()
local epoch = present_epoch(KEYS[1], ARGV[2], ARGV[3], ARGV[4], false)
add_to_records(KEYS[1], epoch, ARGV[6], split_marks(ARGV[7]))
if ARGV[5] == '1' then settle(KEYS[2], ARGV[8], tonumber(ARGV[9]), tonumber(ARGV[10]), now) end
for i = 3, #KEYS do
  local at = 11 + 2 * (i - 3)
  redis.call('SET', KEYS[i], ARGV[at], 'EX', ARGV[at + 1])
end
return epoch
