-- Labels of conversations that went on while the store was away.
-- KEYS: labels. ARGV: 1 now, 2 run, 3 seed, 4 remembered epoch, 5 renew, then marks and their labels in turn.
local epoch = present_epoch(KEYS[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1')
for i = 6, #ARGV, 2 do add_to_records(KEYS[1], epoch, ARGV[i + 1], split_marks(ARGV[i])) end
return epoch
