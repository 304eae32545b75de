-- The arithmetic of `gateway/store/limits.py`, which says why; keep the two alike.
-- One hash for each key: `steps` "number:requests:tokens,…" oldest first; `day` "number:nano"; `held` how many
-- reservations are at work; `lapse` when the next of them may lapse; and "h:<id>" for each one of them:
-- "<until_ms> <step> <day> <tokens> <usd_nano>".

local STEP_MS, STEPS, DAY_MS, HELD_MS, IDLE_S = 5000, 13, 86400000, 900000, 172800

local function int(number) return string.format('%.0f', number) end

local function load_usage(key, now)
  local stored = redis.call('HMGET', key, 'steps', 'day', 'held', 'lapse')
  local usage = {key = key, steps = {}, day = math.floor(now / DAY_MS), usd = 0,
                 held = tonumber(stored[3] or '0'), lapse = tonumber(stored[4] or '0')}
  local all = {}
  for number, requests, tokens in string.gmatch(stored[1] or '', '(%d+):(%d+):(-?%d+)') do
    all[#all + 1] = {number = tonumber(number), requests = tonumber(requests), tokens = tonumber(tokens)}
  end
  usage.step = math.floor(now / STEP_MS)
  if #all > 0 then usage.step = math.max(usage.step, all[#all].number) end
  for _, one in ipairs(all) do
    if one.number > usage.step - STEPS then usage.steps[#usage.steps + 1] = one end
  end
  local day, usd = string.match(stored[2] or '', '(%d+):(-?%d+)')
  if day and tonumber(day) >= usage.day then usage.day, usage.usd = tonumber(day), tonumber(usd) end
  return usage
end

local function save_usage(usage, ...)
  local steps = {}
  for i, one in ipairs(usage.steps) do
    steps[i] = int(one.number) .. ':' .. int(one.requests) .. ':' .. int(one.tokens)
  end
  redis.call('HSET', usage.key, 'steps', table.concat(steps, ','), 'day', int(usage.day) .. ':' .. int(usage.usd),
             'held', int(usage.held), 'lapse', int(usage.lapse), ...)
  redis.call('EXPIRE', usage.key, IDLE_S)
end

-- Frees the places of reservations whose workers have died. Looks through them only when one can have lapsed.
local function lapse_held(usage, now)
  if usage.held == 0 or now < usage.lapse then return end
  local stored = redis.call('HGETALL', usage.key)
  usage.held, usage.lapse = 0, 0
  for i = 1, #stored, 2 do
    if string.sub(stored[i], 1, 2) == 'h:' then
      local till = tonumber(string.match(stored[i + 1], '^%d+'))
      if till <= now then
        redis.call('HDEL', usage.key, stored[i])
      else
        usage.held = usage.held + 1
        if usage.lapse == 0 or till < usage.lapse then usage.lapse = till end
      end
    end
  end
end

local function wait_ms(usage, field, asked, cap, now)
  local excess = asked - cap
  for _, one in ipairs(usage.steps) do excess = excess + one[field] end
  if excess <= 0 then return 0 end
  for _, one in ipairs(usage.steps) do
    excess = excess - one[field]
    if excess <= 0 then return math.max(1, (one.number + STEPS) * STEP_MS - now) end
  end
  return STEPS * STEP_MS
end

-- Caps are numbers or nil. Returns the name of the limit without room and the milliseconds to wait, or nil.
local function admit(key, caps, asked, now, hit)
  local usage = load_usage(key, now)
  lapse_held(usage, now)
  local limit, longest = nil, 0
  local function overrun(name, ms)
    if ms > longest then limit, longest = name, ms end
  end
  if caps.requests then overrun('requests_per_minute', wait_ms(usage, 'requests', 1, caps.requests, now)) end
  if not hit then
    if caps.tokens then overrun('tokens_per_minute', wait_ms(usage, 'tokens', asked.tokens, caps.tokens, now)) end
    if caps.usd and usage.usd + asked.usd > caps.usd then
      overrun('usd_per_day', math.max(1, (usage.day + 1) * DAY_MS - now))
    end
    if caps.concurrent and usage.held >= caps.concurrent then overrun('max_concurrent', 1000) end
  end
  if limit then return limit, longest end
  local last = usage.steps[#usage.steps]
  if not last or last.number ~= usage.step then
    last = {number = usage.step, requests = 0, tokens = 0}
    usage.steps[#usage.steps + 1] = last
  end
  last.requests = last.requests + 1
  if hit or not (caps.tokens or caps.usd or caps.concurrent) then
    save_usage(usage)
    return nil
  end
  local till = now + HELD_MS
  last.tokens = last.tokens + asked.tokens
  usage.usd = usage.usd + asked.usd
  if usage.held == 0 or till < usage.lapse then usage.lapse = till end
  usage.held = usage.held + 1
  save_usage(usage, 'h:' .. asked.id, table.concat(
    {int(till), int(usage.step), int(usage.day), int(asked.tokens), int(asked.usd)}, ' '))
  return nil
end

local function settle(key, id, used_tokens, used_usd, now)
  local held = redis.call('HGET', key, 'h:' .. id)
  if not held then return end
  redis.call('HDEL', key, 'h:' .. id)
  local step, day, tokens, usd = string.match(held, '^%d+ (%d+) (%d+) (%d+) (%d+)$')
  local usage = load_usage(key, now)
  usage.held = math.max(0, usage.held - 1)
  for _, one in ipairs(usage.steps) do
    if one.number == tonumber(step) then one.tokens = one.tokens + used_tokens - tonumber(tokens) end
  end
  if usage.day == tonumber(day) then usage.usd = usage.usd + used_usd - tonumber(usd) end
  save_usage(usage)
end
