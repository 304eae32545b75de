-- A request enters: taint, then cache, then limits; all of it or nothing.
-- KEYS: labels, usage[, cached answer]. ARGV: 1 now, 2 run, 3 seed, 4 remembered epoch, 5 at ceiling, 6 labels,
-- 7 marks one after the other, 8 vouchers (count), 9 id, 10 tokens, 11 usd, 12-15 caps ('' is unbounded).
-- Returns {status, epoch, taint, limit, wait_ms, cached}; status: 0 not accepted, 1 accepted, 2 the same with
-- an unreadable past, 3 not accepted for an unreadable past.
local now = now_ms()
local epoch = present_epoch(KEYS[1], ARGV[2], ARGV[3], ARGV[4], false)
local marks, vouchers = split_marks(ARGV[7]), tonumber(ARGV[8])
local records = read_records(KEYS[1], marks)

-- Most marks of a conversation have one record, which is read once, and is what would be written.
local plain = record_of(epoch, ARGV[6])
local taint, present, vouched, unchanged = {}, {}, true, true
for i = 1, #marks do
  local record = records[i]
  if record ~= plain then unchanged = false end
  if record and present[record] == nil then
    local recorded_in, labels = parse_record(record)
    present[record] = recorded_in == string.sub(epoch, 2)
    add_labels(taint, labels)
  end
  if i <= vouchers and not (record and present[record]) then vouched = false end
end
local readable = vouched or answers_for_all(epoch)
local joined = join_labels(taint)

local known = {}
add_labels(known, ARGV[6])
for label in pairs(taint) do
  if not known[label] then return {readable and 0 or 3, epoch, joined} end
end
if not readable and ARGV[5] ~= '1' then return {3, epoch, joined} end
local status = readable and 1 or 2

-- What is on record for these marks is among the labels known: nothing has to be joined.
if not unchanged then write_records(KEYS[1], marks, records, function() return plain end) end

local cached = KEYS[3] and redis.call('GET', KEYS[3])
local caps = {requests = tonumber(ARGV[12]), tokens = tonumber(ARGV[13]), usd = tonumber(ARGV[14]),
              concurrent = tonumber(ARGV[15])}
if next(caps) then
  local asked = {id = ARGV[9], tokens = tonumber(ARGV[10]), usd = tonumber(ARGV[11])}
  local limit, wait = admit(KEYS[2], caps, asked, now, cached and true or false)
  if limit then return {status, epoch, joined, limit, wait} end
end
if cached then
  local answer = string.sub(cached, 1, MARK_BYTES)
  if answer ~= NO_MARK then add_to_records(KEYS[1], epoch, ARGV[6], {answer}) end
end
return {status, epoch, joined, '', 0, cached or false}
