-- The labels of all conversations of a tenant are one hash: digest -> "<epoch id> <label>,<label>".
-- The fields `epoch` and `run` live in the same hash on purpose: whatever loses the labels (a flush, an
-- eviction, an empty restart) loses the epoch with them, so a lost past can never look like no past.

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
  local stored = redis.call('HMGET', key, 'epoch', 'run')
  local epoch = stored[1]
  if not epoch then
    epoch = (remembered == '' and not renew and 'g' or 'r') .. fresh_id(seed, '')
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
  redis.call('HSET', key, 'epoch', epoch, 'run', run)
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

-- Records `labels` for each digest ARGV[first..last], together with what is there already.
local function record_labels(key, epoch, labels, first, last)
  if last < first then return end
  local digests = {}
  for i = first, last do digests[#digests + 1] = ARGV[i] end
  local stored = redis.call('HMGET', key, unpack(digests))
  local plain = string.sub(epoch, 2) .. ' ' .. labels
  local changed = {}
  for i = 1, #digests do
    local record = stored[i]
    if record ~= plain then
      local value = plain
      if record then
        local set = {}
        add_labels(set, labels)
        local _, before = parse_record(record)
        add_labels(set, before)
        value = string.sub(epoch, 2) .. ' ' .. join_labels(set)
      end
      if value ~= record then
        changed[#changed + 1] = digests[i]
        changed[#changed + 1] = value
      end
    end
  end
  if #changed > 0 then redis.call('HSET', key, unpack(changed)) end
end

-- ARGV[1] is for tests alone: the time in milliseconds, else 0 and the server's own clock counts, so that
-- the workers' clocks do not matter.
local function now_ms()
  local given = tonumber(ARGV[1])
  if given > 0 then return given end
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
