-- An operator accepts that what was lost stays lost: from here the store answers for every conversation again.
-- KEYS: labels. ARGV: 1 now, 2 run, 3 seed.
local epoch = 'a' .. fresh_id(ARGV[3], '')
redis.call('HSET', KEYS[1], 'epoch', epoch, 'run', ARGV[2], 'format', FORMAT)
return epoch
