-- Hold: the first admissible plan, with the largest affordable output, on all its accounts or on none.
--
-- A request whose accounts live in several realms is weighed in each (`weigh`), then asked for as parts: one plan with
-- one output, `first` among the plans of the whole, whose fingerprint each of them has. `nanodollars` is at least what the
-- whole holds; `refused`: another realm refuses it, and this one is to remember so.
local ask = cjson.decode(ARGV[1])
local ID = ask.id
local REFUSED = PREFIX .. 'refused:' .. ID
local NEVER = '-'
local waiting = nil -- the settle that came before the restored hold: the next run of the reaper charges it

-- The account of a posting, at this moment.
local function account_of(posting)
  local spec = ask.accounts[posting.account]
  local a = account(spec.kind, spec.name)
  if spec.kind == 'sliding' then
    forget(a, spec.period)
  end
  return a, spec
end

-- An account's state as words: spent, held, and the bounds of its window.
local function state(a, spec, ends)
  if spec.kind == 'calendar' then
    return table.concat({ text(a.spent), text(a.held), text(spec.window_start), text(spec.window_end) }, ' ')
  end
  return table.concat({ text(a.spent), text(a.held), NEVER, ends }, ' ')
end

local function refused_because(posting, a, spec, asked)
  if spec.latch and posting.deciding and is_latched(a) then
    return 'latched'
  end
  if posting.spent_below >= 0 and a.spent >= posting.spent_below then
    return 'constrained'
  end
  if not posting.deciding or asked == 0 then
    return nil
  end
  if asked > spec.cap then
    return 'never_fits'
  end
  if a.spent + asked > spec.cap then
    return 'spent'
  end
  if a.spent + a.held + asked > spec.cap then
    return 'contended'
  end
end

-- When a sliding window will have forgotten enough for the refused amount; nil if that never happens.
local function enough_forgotten(a, spec, asked, because)
  if because ~= 'spent' and because ~= 'contended' then
    return nil
  end
  local total = a.spent + a.held + asked
  local slots = redis.call('ZRANGEBYSCORE', a.slots, '(' .. text(now - a.period), '+inf')
  for _, slot in ipairs(slots) do
    local amounts = redis.call('HMGET', a.key, 's' .. slot, 'h' .. slot)
    total = total - figure(amounts[1], 'slot') - figure(amounts[2], 'slot')
    if total <= spec.cap then
      return text(tonumber(slot) + a.period)
    end
  end
end

local function first_forgotten(a, slot)
  local oldest = redis.call('ZRANGEBYSCORE', a.slots, '(' .. text(now - a.period), '+inf', 'LIMIT', 0, 1)
  local first = slot
  if a.generation and oldest[1] then
    first = math.min(tonumber(oldest[1]), slot)
  end
  return text(first + a.period)
end

-- The states of the accounts that refuse this plan, as words; empty when it is admissible.
local function refusals(plan)
  local states = {}
  for index, posting in ipairs(plan.postings) do
    local a, spec = account_of(posting)
    local asked = amount(posting, plan.output_min)
    local because = refused_because(posting, a, spec, asked)
    if because then
      local ends = spec.kind == 'sliding' and enough_forgotten(a, spec, asked, because) or NEVER
      states[#states + 1] = table.concat({ state(a, spec, ends), text(index - 1), because, text(asked) }, ' ')
    end
  end
  return states
end

-- The rule may have been edited since the account began.
local function refresh_rule(a, spec)
  if not a.generation then
    return
  end
  if a.cap ~= text(spec.cap) or a.thresholds ~= spec.thresholds then
    a.cap = text(spec.cap)
    a.thresholds = spec.thresholds
    write('HSET', a.key, 'cap', a.cap, 'thr', a.thresholds)
    if spec.kind == 'calendar' or spec.kind == 'lifetime' then
      rearm(a)
    end
  end
  if a.latches ~= spec.latch then
    write('HSET', a.key, 'latch', spec.latch and '1' or '0')
  end
end

local function begin(a, spec)
  if a.generation then
    refresh_rule(a, spec)
    return
  end
  if a.stored then
    write('DEL', a.key, a.slots or top_key(a))
  end
  a.generation = text(seq + 1)
  write(
    'HSET', a.key, 'gen', a.generation, 'cap', text(spec.cap), 'meta', spec.meta, 'spent', '0', 'held', '0',
    'thr', spec.thresholds, 'latch', spec.latch and '1' or '0'
  )
end

local function keep_account(a, spec)
  if spec.kind == 'calendar' then
    keep(a, spec.window_end + ask.keep_us, 0)
  elseif spec.kind == 'lifetime' then
    keep(a, now + ask.idle_us, 86400000000)
  elseif spec.kind == 'sliding' then
    keep(a, now + 2 * spec.period, 2 * spec.period)
  else
    keep(a, now + ask.keep_us, ask.keep_us)
  end
end

-- Set one posting aside; returns it as the hold keeps it, and its account's state as words.
local function set_aside(posting, output)
  local a, spec = account_of(posting)
  local held = amount(posting, output)
  local slot, ends = false, NEVER
  if spec.kind == 'sliding' then
    slot = slot_of(a, spec.cap)
    ends = first_forgotten(a, slot)
  end
  begin(a, spec)
  keep_account(a, spec)
  increment(a.key, 'held', held)
  a.held = a.held + held
  if slot then
    local kept = redis.call('HGET', a.key, 'h' .. text(slot))
    figure(kept, 'slot')
    write('HINCRBY', a.key, 'h' .. text(slot), text(held))
    write('ZADD', a.slots, text(slot), text(slot))
    if a.slot_count == 0 then
      write('PEXPIREAT', a.slots, milliseconds(a.expires)) -- `keep` cannot do it for a key that is not there yet
    end
  end
  return { spec.kind, spec.name, a.generation, held, spec.measure, slot, spec.period }, state(a, spec, ends)
end

-- The largest output that every account of this realm can carry.
local function affordable(plan)
  local output = plan.output_max
  for _, posting in ipairs(plan.postings) do
    if posting.deciding then
      local a, spec = account_of(posting)
      local room = spec.cap - a.spent - a.held
      output = math.min(output, largest_output(posting, room, plan.output_min, plan.output_max))
    end
  end
  return output
end

local function grant(index, plan)
  local output = affordable(plan)
  local postings, states, nanodollars = {}, {}, ask.nanodollars
  for i, posting in ipairs(plan.postings) do
    postings[i], states[i] = set_aside(posting, output)
    if postings[i][5] == 'cost' then
      nanodollars = math.max(nanodollars, postings[i][4])
    end
  end
  local answer = { text(ask.first + index - 1), text(output), table.concat(states, ';') }
  local record = { 'open', ask.fingerprint, nanodollars, postings, ask.context, ask.series, answer, text(output), waiting }
  remember(ID, record)
  write('ZADD', leases_of(record), text(waiting and now or now + ask.lease_us), ID)
  return { 'held', unpack(answer) }
end

local function refuse(tried, states)
  local tops = {}
  local plan = ask.plans[tried]
  for index, posting in ipairs(#states > 0 and plan.postings or {}) do
    local a, spec = account_of(posting)
    local because = refused_because(posting, a, spec, amount(posting, plan.output_min))
    if because then
      refresh_rule(a, spec)
      local top = top_consumer(a, ask.top_by)
      if top then
        tops[#tops + 1] = { index - 1, unpack(top) }
      end
      if because == 'spent' and spec.latch then
        latch(a)
      end
    end
  end
  local told = #tops > 0 and cjson.encode(tops) or ''
  local answer = { text(ask.first + math.max(tried - 1, 0)), '0', table.concat(states, ';'), told }
  local until_us = now + ask.refused_us
  write('SET', REFUSED, cmsgpack.pack({ until_us, ask.fingerprint, answer }), 'PXAT', milliseconds(until_us))
  return { 'refused', unpack(answer) }
end

-- What a repeated call gets, or nil for a new id.
local function repeated()
  local record = hold_record(ID)
  if record and record[1] == 'resolved' and ask.restored and record[4] then
    waiting = record[4]
    return nil
  end
  if record then
    if record[3] == WITHDRAWN and ask.restored then
      return nil -- nobody went on with it here, but somebody admitted it without us
    elseif record[1] ~= 'open' then
      return { 'already_resolved' }
    elseif record[2] ~= ask.fingerprint then
      return { 'exists_with_different_amount' }
    end
    return { 'exists', unpack(record[7]) }
  end
  local packed = redis.call('GET', REFUSED)
  if ask.restored then
    return nil -- it was admitted while Redis was away, or in a life that Redis has forgotten
  end
  local refused = packed and cmsgpack.unpack(packed)
  if refused and refused[1] > now then
    if refused[2] ~= ask.fingerprint then
      return { 'exists_with_different_amount' }
    end
    return { 'refused', unpack(refused[3]) }
  end
  if minted_us(ID) < now - ask.keep_us then
    return { 'too_old' }
  end
end

-- Whether every account that the plan waits for has spent enough.
local function reached(plan)
  for _, posting in ipairs(plan.postings) do
    if posting.spent_from >= 0 and account_of(posting).spent < posting.spent_from then
      return false
    end
  end
  return true
end

-- What this realm says to each plan: the largest output, `refused`, or `left_out` where it waits for more to be spent.
local function weigh()
  local said = {}
  for index, plan in ipairs(ask.plans) do
    if not reached(plan) then
      said[index] = 'left_out'
    elseif #refusals(plan) > 0 then
      said[index] = 'refused'
    else
      said[index] = text(affordable(plan))
    end
  end
  return { 'weighed', table.concat(said, ' ') }
end

local function decide()
  if ask.refused then
    return refuse(1, refusals(ask.plans[1]))
  end
  local states, tried = {}, #ask.plans
  for index, plan in ipairs(ask.plans) do
    if reached(plan) then
      states, tried = refusals(plan), index
      if #states == 0 then
        return grant(index, plan)
      end
    end
  end
  return refuse(tried, states)
end

-- The worker sends the windows of the time it last knew. If one has ended since, it is told the time and asks again.
for _, spec in ipairs(ask.accounts) do
  if spec.kind == 'calendar' and (now < spec.window_start or now >= spec.window_end) then
    return reply('window_stale')
  end
end
redis.call('ZSCORE', leases_of({ [5] = ask.context }), ID) -- only to find a key of another type before the first write
if ask.previous then
  local _, leases = resolve(ask.previous, ask.keep_us)
  if #writes > 0 then
    write('ZREM', leases, ask.previous.id)
  end
end
if ask.weigh then
  return reply(unpack(repeated() or weigh()))
end
local answer = repeated() or decide()
if #writes > 0 then
  commit()
end
return reply(unpack(answer))
