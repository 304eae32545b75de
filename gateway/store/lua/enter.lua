-- A request enters: taint, then cache, then limits; all of it or nothing.
-- KEYS: labels, usage[, cached value]. ARGV: 1 now, 2 run, 3 seed, 4 remembered epoch, 5 at ceiling, 6 labels,
-- 7 reads, 8 vouchers, 9 writes (counts), 10 id, 11 tokens, 12 usd, 13-16 caps ('' is unbounded), digests….
-- Returns {status, epoch, taint, limit, wait_ms, cached}; status: 0 not accepted, 1 accepted, 2 the same with
-- an unreadable past, 3 not accepted for an unreadable past.
local now = now_ms()
local epoch = present_epoch(KEYS[1], ARGV[2], ARGV[3], ARGV[4], false)
local reads, vouchers, writes = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local first = 17

local taint, joined, readable = {}, '', true
if reads > 0 then
  readable = answers_for_all(epoch)
  local digests = {}
  for i = 1, reads do digests[i] = ARGV[first - 1 + i] end
  local seen = {}
  for i, record in ipairs(redis.call('HMGET', KEYS[1], unpack(digests))) do
    if record then
      local recorded_in, labels = parse_record(record)
      if i <= vouchers and recorded_in == string.sub(epoch, 2) then readable = true end
      if not seen[labels] then
        seen[labels] = true
        add_labels(taint, labels)
      end
    end
  end
  joined = join_labels(taint)
end

local known = {}
add_labels(known, ARGV[6])
for label in pairs(taint) do
  if not known[label] then return {readable and 0 or 3, epoch, joined} end
end
if not readable and ARGV[5] ~= '1' then return {3, epoch, joined} end
local status = readable and 1 or 2

record_labels(KEYS[1], epoch, ARGV[6], first + reads, first + reads + writes - 1)

local cached = KEYS[3] and redis.call('GET', KEYS[3])
local caps = {requests = tonumber(ARGV[13]), tokens = tonumber(ARGV[14]), usd = tonumber(ARGV[15]),
              concurrent = tonumber(ARGV[16])}
if next(caps) then
  local asked = {id = ARGV[10], tokens = tonumber(ARGV[11]), usd = tonumber(ARGV[12])}
  local limit, wait = admit(KEYS[2], caps, asked, now, cached and true or false)
  if limit then return {status, epoch, joined, limit, wait} end
end
return {status, epoch, joined, '', 0, cached or false}
