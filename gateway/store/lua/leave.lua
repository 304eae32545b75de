-- A request leaves: settle, record its labels, put what may be kept.
-- KEYS: labels, usage, values…. ARGV: 1 now, 2 run, 3 seed, 4 remembered epoch, 5 settles, 6 labels,
-- 7 writes (count), 8 id, 9 tokens, 10 usd, digests…, then value and seconds to live for each of the values.
local now = now_ms()
local epoch = present_epoch(KEYS[1], ARGV[2], ARGV[3], ARGV[4], false)
local writes = tonumber(ARGV[7])
record_labels(KEYS[1], epoch, ARGV[6], 11, 10 + writes)
if ARGV[5] == '1' then settle(KEYS[2], ARGV[8], tonumber(ARGV[9]), tonumber(ARGV[10]), now) end
for i = 3, #KEYS do
  local at = 11 + writes + 2 * (i - 3)
  redis.call('SET', KEYS[i], ARGV[at], 'EX', ARGV[at + 1])
end
return epoch
