-- The labels of all conversations of a tenant are one hash: mark -> "<epoch id> <label>,<label>".
-- The fields `epoch`, `run` and `format` live in the same hash on purpose: whatever loses the labels (a flush,
-- an eviction, an empty restart) loses the epoch with them, so a lost past can never look like no past.

local FORMAT = '2' -- what a mark is a digest of; 1 was prefixes of the messages
local MARK_BYTES = 16 -- as in `gateway/store/base.py`
local NO_MARK = string.rep('\0', MARK_BYTES)
local AT_ONCE = 1000 -- marks in one command: Lua passes at most some 8,000 values

-- An id that no other epoch of the tenant has: the worker's seed and the server's time in microseconds.
local function fresh_id(seed, before)
  local time = redis.call('TIME')
  local id = string.format('%s%.0f', seed, tonumber(time[1]) * 1000000 + tonumber(time[2]))
  return id == string.sub(before, 2) and id .. 'x' or id
end

-- The id of the present epoch, made when there is none. Kinds: `g` the first that this tenant ever had,
-- `a` accepted by an operator in its stead, `r` begun after something may have been lost.
-- `remembered`: the epoch that the worker saw last; '' none ever; '-' it has no memory to tell.
local function present_epoch(key, run, seed, remembered, renew)
  local stored = redis.call('HMGET', key, 'epoch', 'run', 'format')
  local epoch = stored[1]
  if not epoch then
    epoch = (remembered == '' and not renew and 'g' or 'r') .. fresh_id(seed, '')
  elseif stored[3] ~= FORMAT then
    -- Marks that are digests of something else are never found: what they say is as good as lost.
    redis.call('UNLINK', key)
    epoch = 'r' .. fresh_id(seed, epoch)
  elseif renew or (run ~= '' and stored[2] ~= run) then
    -- Another server process answers than the one that this epoch was recorded in: a restart or a failover,
    -- which may have lost the latest records although the hash is there.
    epoch = 'r' .. fresh_id(seed, epoch)
  elseif string.sub(epoch, 1, 1) == 'g' and remembered ~= '' and remembered ~= '-' and remembered ~= epoch then
    -- This worker knows of an earlier epoch, so it was not the first after all. What was recorded in it took
    -- a lost past for none, so its records must not answer either.
    epoch = 'r' .. fresh_id(seed, epoch)
  else
    return epoch
  end
  redis.call('HSET', key, 'epoch', epoch, 'run', run, 'format', FORMAT)
  return epoch
end

-- Whether an epoch answers for conversations that it has no record of.
local function answers_for_all(epoch)
  local kind = string.sub(epoch, 1, 1)
  return kind == 'g' or kind == 'a'
end

local function parse_record(record)
  local space = string.find(record, ' ', 1, true)
  return string.sub(record, 1, space - 1), string.sub(record, space + 1)
end

local function add_labels(set, joined)
  for label in string.gmatch(joined, '[^,]+') do set[label] = true end
end

local function join_labels(set)
  local names = {}
  for label in pairs(set) do names[#names + 1] = label end
  table.sort(names)
  return table.concat(names, ',')
end

local function record_of(epoch, labels) return string.sub(epoch, 2) .. ' ' .. labels end

local function split_marks(joined)
  local marks = {}
  for at = 1, #joined, MARK_BYTES do marks[#marks + 1] = string.sub(joined, at, at + MARK_BYTES - 1) end
  return marks
end

-- The record of each mark, false for none.
local function read_records(key, marks)
  local records = {}
  for first = 1, #marks, AT_ONCE do
    local last = math.min(first + AT_ONCE - 1, #marks)
    local found = redis.call('HMGET', key, unpack(marks, first, last))
    for i = 1, #found do records[first + i - 1] = found[i] end
  end
  return records
end

-- Writes `record_after(record)` for each mark where that is another record than it has.
local function write_records(key, marks, records, record_after)
  local changed = {}
  for i = 1, #marks do
    local record = record_after(records[i])
    if record ~= records[i] then
      changed[#changed + 1] = marks[i]
      changed[#changed + 1] = record
    end
    if #changed >= 2 * AT_ONCE or (i == #marks and #changed > 0) then
      redis.call('HSET', key, unpack(changed))
      changed = {}
    end
  end
end

-- Records `labels` for each mark, together with what is there already.
local function add_to_records(key, epoch, labels, marks)
  local plain = record_of(epoch, labels)
  write_records(key, marks, read_records(key, marks), function(record)
    if not record or record == plain then return plain end
    local set = {}
    add_labels(set, labels)
    local _, before = parse_record(record)
    add_labels(set, before)
    return record_of(epoch, join_labels(set))
  end)
end

-- ARGV[1] is for tests alone: the time in milliseconds, else 0 and the server's own clock counts, so that
-- the workers' clocks do not matter.
local function now_ms()
  local given = tonumber(ARGV[1])
  if given > 0 then return given end
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
