-- What every script starts with. A script reads, decides, and lists its writes; `commit` then makes them all, so that
-- whatever is wrong (a key of another type, a corrupt figure) is found before anything has changed: Redis isolates a
-- script but does not roll one back.
--
-- KEYS[1] is the clock's key; every other key shares its prefix, and so its slot. Numbers are doubles here: they only
-- compare, up to 2^53 - 1. Money moves by HINCRBY, and travels as decimal text made by `text` alone.
local CLOCK = KEYS[1]
local PREFIX = string.sub(CLOCK, 1, -6)
local LEASES = PREFIX .. 'leases'
local PARTS = PREFIX .. 'parts'
local MAX_AMOUNT = 9007199254740991
local STEP_BACK_US = 60000000

local function text(number)
  return string.format('%.0f', number + 0)
end

local function figure(stored, what)
  if not stored then
    return 0
  end
  local number = tonumber(stored)
  if not number or number ~= math.floor(number) or math.abs(number) > 9e18 then
    error('corrupt ' .. what)
  end
  return number
end

local kept_clock = redis.call('HMGET', CLOCK, 'us', 'epoch', 'seq')
local now = server_us()
local seen = figure(kept_clock[1], 'clock')
local stepped = seen - now > STEP_BACK_US
if not stepped then
  now = math.max(now, seen)
end
local epoch = kept_clock[2] or ''
local seq = figure(kept_clock[3], 'seq')

local writes = {}
local function write(...)
  writes[#writes + 1] = { ... }
end

-- Make the listed writes. The first command decides what a full Redis does: it is refused only before a script's
-- first write, so a hold starts with one that may be refused and a settle with a removal, which never is.
local function commit(first)
  if first then
    redis.call(unpack(first))
  end
  seq = seq + 1
  if epoch == '' then
    epoch = text(now)
  end
  redis.call('HSET', CLOCK, 'us', text(now), 'epoch', epoch, 'seq', text(seq))
  if stepped then
    redis.call('HINCRBY', CLOCK, 'steps', '1')
  end
  for _, command in ipairs(writes) do
    redis.call(unpack(command))
  end
end

-- An answer is one text of lines: a client parses one long string several times faster than a list of short ones.
local function reply(code, ...)
  return table.concat({ code, text(now), epoch, text(seq), ... }, '\n')
end

-- A number of milliseconds at which Redis itself may forget a key that is past its time for us.
local function milliseconds(us)
  return text(math.ceil(us / 1000) + 1)
end
