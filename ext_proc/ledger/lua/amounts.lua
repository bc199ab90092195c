-- The arithmetic of `amounts.py`, line for line, in doubles.
local function saturate(number)
  return math.min(number, MAX_AMOUNT)
end

-- fixed + ceil(milli * output / 1000), exact: the product is taken apart so that no part of it passes 2^53 unnoticed.
local function amount(posting, output)
  local rest = math.fmod(output, 1000)
  local part = rest * posting.milli
  part = (part + math.fmod(1000 - math.fmod(part, 1000), 1000)) / 1000
  return saturate(posting.fixed + (output - rest) / 1000 * posting.milli + part)
end

-- The largest output from least to most whose amount fits. The caller has checked that of the least.
local function largest_output(posting, room, least, most)
  local asked = amount(posting, most)
  if asked == 0 or asked <= room then
    return most
  end
  local free = room - posting.fixed
  local rest = math.fmod(free, posting.milli)
  local part = rest * 1000
  local affordable = (free - rest) / posting.milli * 1000 + (part - math.fmod(part, posting.milli)) / posting.milli
  return math.min(math.max(affordable, least), most)
end
