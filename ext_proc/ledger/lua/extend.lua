-- Let an open hold carry more output: an answer goes on past what was held. What it carries in all is asked for, so that
-- a repeated call changes nothing. The accounts with a cap in `caps` can refuse; those of the hold that have none follow.
local ask = cjson.decode(ARGV[1])

-- What each token adds to an account of this measure, in thousandths of its step.
local function milli_of(measure)
  if measure == 'cost' then
    return ask.cost_milli
  elseif measure == 'tokens' or measure == 'output_tokens' then
    return 1000
  end
  return 0
end

-- How many of the tokens wanted an account has room for. One that has begun anew since does not refuse.
local function affordable(posting, wanted)
  local kind, name, generation, slot, period = posting[1], posting[2], posting[3], posting[6], posting[7]
  local cap, milli = ask.caps[string.match(name, '^%x+')], milli_of(posting[5])
  if not cap or milli == 0 then
    return wanted
  end
  local a = account(kind, name)
  if a.generation ~= generation then
    return wanted
  end
  if slot then
    forget(a, period)
  end
  return largest_output({ fixed = 0, milli = milli }, cap - a.spent - a.held, 0, wanted)
end

local function extend(record)
  local carried = tonumber(record[8])
  local wanted = ask.output - carried
  if wanted <= 0 then
    return { 'exists', text(carried) }
  end
  local granted = wanted
  for _, posting in ipairs(record[4]) do
    granted = math.min(granted, affordable(posting, wanted))
  end
  if granted < 1 then
    return { 'exhausted', text(carried) }
  end
  post_all(record, function(posting)
    return saturate(posting[4] + amount({ fixed = 0, milli = milli_of(posting[5]) }, granted)) - posting[4], 0
  end)
  for _, posting in ipairs(record[4]) do
    posting[4] = saturate(posting[4] + amount({ fixed = 0, milli = milli_of(posting[5]) }, granted))
    if posting[5] == 'cost' then
      record[3] = math.max(record[3], posting[4])
    end
  end
  record[8] = text(carried + granted)
  remember(ask.id, record)
  return { 'extended', record[8] }
end

local record = hold_record(ask.id)
if not record then
  return reply('not_found', '0')
elseif record[1] ~= 'open' or record[9] then
  return reply('already_resolved', '0')
end
local answer = extend(record)
if answer[1] == 'extended' then
  commit()
end
return reply(unpack(answer))
