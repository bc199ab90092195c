-- What follows when an account's spend moves: thresholds crossed, top consumers, spend by tag, the latch.
local OUTBOX = PREFIX .. 'outbox'
local OUTBOX_MAX = '100000'
local OTHER = '~other'
local SEPARATOR = '\31' -- between a tag and its value; neither can hold a control character
local TOP_MAX = 100
local SERIES_MAX = 200
local HOUR_US = 3600000000
local DAY_US = 86400000000

-- ceil(cap * percent / 100), exact.
local function share(cap, percent)
  local rest = math.fmod(cap, 100)
  return (cap - rest) / 100 * percent + math.ceil(rest * percent / 100)
end

-- Tell each threshold that the spend has passed, once per window: `crossed` remembers the highest.
local function alert(a)
  local cap = tonumber(a.cap)
  for word in string.gmatch(a.thresholds, '%d+') do
    local percent = tonumber(word)
    if cap > 0 and percent > a.crossed and a.spent >= share(cap, percent) then
      a.crossed = percent
      redis.call('XLEN', OUTBOX) -- only to find a key of another type before the first write
      write(
        'XADD', OUTBOX, 'MAXLEN', '~', OUTBOX_MAX, '*',
        'account', a.kind .. ':' .. a.name, 'meta', redis.call('HGET', a.key, 'meta') or '[]', 'percent', word,
        'spent', text(a.spent), 'held', text(a.held), 'cap', text(cap), 'us', text(now)
      )
    end
  end
  if a.crossed ~= a.kept_crossed then
    write('HSET', a.key, 'crossed', text(a.crossed))
    a.kept_crossed = a.crossed
  end
end

-- A cap was edited: thresholds above what is spent are armed again, those below are told.
local function rearm(a)
  local cap = tonumber(a.cap)
  local reached = 0
  for word in string.gmatch(a.thresholds, '%d+') do
    if a.spent >= share(cap, tonumber(word)) then
      reached = math.max(reached, tonumber(word))
    end
  end
  a.crossed = math.min(a.crossed, reached)
  alert(a)
end

local function latch_key(a)
  return PREFIX .. 'latch:' .. string.match(a.name, '^%x+')
end

local shut = {}

-- Shut an exhausted account that is to stay shut until somebody resumes it.
local function latch(a)
  shut[latch_key(a)] = true
  write('SET', latch_key(a), text(now), 'NX')
end

local function is_latched(a)
  return shut[latch_key(a)] or redis.call('EXISTS', latch_key(a)) == 1
end

local function top_key(a)
  return PREFIX .. 'top:' .. a.kind .. ':' .. a.name
end

-- Who spent it: one count per tag and value, at most TOP_MAX of them, the rest under `~other`.
local function consume(a, series, amount)
  if amount == 0 or #series == 0 then
    return
  end
  local key = top_key(a)
  local size = redis.call('ZCARD', key)
  for _, pair in ipairs(series) do
    local member = pair[1] .. SEPARATOR .. pair[2]
    if size >= TOP_MAX and not redis.call('ZSCORE', key, member) then
      member = pair[1] .. SEPARATOR .. OTHER
    end
    write('ZINCRBY', key, text(amount), member)
    a.consumed = a.consumed or {}
    a.consumed[member] = (a.consumed[member] or 0) + amount
  end
  write('PEXPIREAT', key, milliseconds(a.expires))
end

-- The largest consumer by the first of these tags that has one, this script's own charges included: {tag, value,
-- amount}, or nil.
local function top_consumer(a, tags)
  local ranked = redis.call('ZREVRANGE', top_key(a), 0, -1, 'WITHSCORES')
  local amounts = {}
  for i = 1, #ranked, 2 do
    amounts[ranked[i]] = tonumber(ranked[i + 1])
  end
  for member, amount in pairs(a.consumed or {}) do
    amounts[member] = (amounts[member] or 0) + amount
  end
  for _, tag in ipairs(tags) do
    local start = tag .. SEPARATOR
    local best
    for member, amount in pairs(amounts) do
      if string.sub(member, 1, #start) == start and member ~= start .. OTHER then
        local larger = not best or amount > amounts[best] or (amount == amounts[best] and member > best)
        best = larger and member or best
      end
    end
    if best then
      return { tag, string.sub(best, #start + 1), text(amounts[best]) }
    end
  end
end

local function record_period(name, length, keep_us, series, cost, tokens)
  local start = now - math.fmod(now, length)
  for _, pair in ipairs(series) do
    local key = PREFIX .. 'series:' .. name .. ':' .. pair[3] .. ':' .. text(start / 1000000)
    local value = pair[2]
    local size = redis.call('HLEN', key)
    if size >= 2 * SERIES_MAX and redis.call('HEXISTS', key, 'c' .. value) == 0 then
      value = OTHER
    end
    write('HINCRBY', key, 'c' .. value, text(cost))
    write('HINCRBY', key, 't' .. value, text(tokens))
    if size == 0 then
      write('PEXPIREAT', key, milliseconds(start + keep_us))
    end
  end
end

-- Spend by tag value and UTC hour (kept 9 days) and day (kept 401), in nano-dollars and tokens.
local function record_series(series, cost, tokens)
  if cost ~= 0 or tokens ~= 0 then
    record_period('hour', HOUR_US, 9 * DAY_US, series, cost, tokens)
    record_period('day', DAY_US, 401 * DAY_US, series, cost, tokens)
  end
end

-- An account's spend has moved by this much.
local function spend_moved(a, series, amount)
  if a.kind ~= 'calendar' and a.kind ~= 'lifetime' then
    return
  end
  consume(a, series, amount)
  alert(a)
  if a.latches and a.spent >= tonumber(a.cap) then
    latch(a)
  end
end
