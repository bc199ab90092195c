-- Accounts: read once per script, changed in this script's memory, written as increments.
local ACCOUNTS = PREFIX .. 'accounts'
local EXACT_SLOTS = 1000
local SUB_WINDOWS = 60

local accounts = {}

-- The account of one window, with what the script has already decided to change. It has no `generation` until
-- something is held on it, nor past its time: what is `stored` of it then is deleted before it is begun anew.
local function account(kind, name)
  local key = PREFIX .. kind .. ':' .. name
  local known = accounts[key]
  if known then
    return known
  end
  local stored = redis.call('HMGET', key, 'gen', 'spent', 'held', 'cap', 'exp', 'thr', 'crossed', 'latch')
  known = { kind = kind, name = name, key = key, spent = 0, held = 0, expires = 0, crossed = 0, stored = stored[1] }
  local expires = figure(stored[5], 'expiry')
  if stored[1] and expires > now then
    known.generation = stored[1]
    known.spent = figure(stored[2], 'spent')
    known.held = figure(stored[3], 'held')
    known.cap = stored[4]
    known.expires = expires
    known.thresholds = stored[6]
    known.crossed = figure(stored[7], 'threshold')
    known.kept_crossed = known.crossed
    known.latches = stored[8] == '1'
  end
  accounts[key] = known
  return known
end

local function increment(key, name, delta)
  if delta ~= 0 then
    write('HINCRBY', key, name, text(delta))
  end
end

-- Drop the slots of a sliding window that are a whole period old.
local function forget(a, period)
  if a.period then
    return
  end
  a.period = period
  a.slots = PREFIX .. 'slots:' .. a.name
  a.slot_count = redis.call('ZCARD', a.slots)
  if not a.generation then
    a.stored = a.stored or a.slot_count > 0
    a.slot_count = 0
    return
  end
  local old = redis.call('ZRANGEBYSCORE', a.slots, '-inf', text(now - period))
  a.slot_count = a.slot_count - #old
  if #old == 0 then
    return
  end
  local fields = {}
  for _, slot in ipairs(old) do
    fields[#fields + 1] = 's' .. slot
    fields[#fields + 1] = 'h' .. slot
  end
  local amounts = redis.call('HMGET', a.key, unpack(fields))
  local spent, held = 0, 0
  for i = 1, #amounts, 2 do
    spent = spent + figure(amounts[i], 'slot')
    held = held + figure(amounts[i + 1], 'slot')
  end
  increment(a.key, 'spent', -spent)
  increment(a.key, 'held', -held)
  write('HDEL', a.key, unpack(fields))
  write('ZREMRANGEBYSCORE', a.slots, '-inf', text(now - period))
  a.spent = a.spent - spent
  a.held = a.held - held
end

-- The slot a hold falls in: its own instant while the cap is small, else the end of its sub-window, so that the oldest
-- sub-window is counted whole until all of it is a period old.
local function slot_of(a, cap)
  if cap <= EXACT_SLOTS and a.slot_count < EXACT_SLOTS then
    return now
  end
  local sub_window = math.floor(a.period / SUB_WINDOWS)
  return now - math.fmod(now, sub_window) + sub_window
end

-- Push the time the account is forgotten, in steps, so that a busy one is not written for it each time.
local function keep(a, needed, slack)
  if a.expires >= needed then
    return
  end
  a.expires = needed + slack
  write('HSET', a.key, 'exp', text(a.expires))
  write('PEXPIREAT', a.key, milliseconds(a.expires))
  if a.period then
    write('PEXPIREAT', a.slots, milliseconds(a.expires))
  end
  if a.kind == 'calendar' or a.kind == 'lifetime' then
    redis.call('ZCARD', ACCOUNTS) -- only to find a key of another type before the first write
    write('ZADD', ACCOUNTS, text(a.expires), a.kind .. ':' .. a.name)
    write('PEXPIREAT', PREFIX .. 'top:' .. a.kind .. ':' .. a.name, milliseconds(a.expires))
  end
end

-- Move a generation that somebody has reset by hand: it still takes what was held in it.
local function post_earlier(a, generation, held, spent)
  if redis.call('HEXISTS', a.key, 'held:' .. generation) == 1 then
    increment(a.key, 'held:' .. generation, held)
    increment(a.key, 'spent:' .. generation, spent)
  end
end

-- Move an account that a hold was made on, if the generation (and the slot) it was made in is still there. Returns the
-- account where its present balance has moved.
local function post(posting, held, spent)
  local kind, name, generation, slot, period = posting[1], posting[2], posting[3], posting[6], posting[7]
  local a = account(kind, name)
  if a.generation ~= generation then
    post_earlier(a, generation, held, spent)
    return nil
  end
  if slot then
    local amounts = redis.call('HMGET', a.key, 'h' .. text(slot), 's' .. text(slot))
    if slot <= now - period or not amounts[1] then
      return nil
    end
    figure(amounts[1], 'slot')
    figure(amounts[2], 'slot')
    increment(a.key, 'h' .. text(slot), held)
    increment(a.key, 's' .. text(slot), spent)
  end
  increment(a.key, 'held', held)
  increment(a.key, 'spent', spent)
  a.held = a.held + held
  a.spent = a.spent + spent
  return a
end
