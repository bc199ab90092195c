-- How a hold ends: settled, released, expired, corrected once after it expired, or entombed before it arrived.
local JOURNAL = PREFIX .. 'journal'
local POSTINGS = PREFIX .. 'postings'
local WITHDRAWN = 'withdrawn' -- the fingerprint of what was taken back: no hold of this id stands, and nobody is charged
local UNCHARGED = { input_tokens = 0, output_tokens = 0 } -- what the journal tells of an expired hold

-- An id starts with its mint time in milliseconds, 12 hex digits; what is not an id of ours is older than everything.
local function minted_us(id)
  return (tonumber(string.sub(id, 1, 12), 16) or 0) * 1000
end

-- A hold is one packed string: {'open', fingerprint, held nano-dollars, postings, context, series, reply, output,
-- waiting}, or {'expired', until, held nano-dollars, postings, context, series}, or its tombstone {'resolved', until,
-- fingerprint, waiting}.
-- A posting is {kind, name, generation, amount, measure, slot, period}; slot is false outside sliding windows.
-- `output` is what it carries, as granted or extended. `waiting` is the settle that came before its hold: nobody is
-- charged by it unless the hold turns out to have been admitted without Redis and is restored.
-- Of a hold over several realms, the home realm keeps the context; a part in another one keeps '@' and the home's name.
local function hold_record(id)
  local packed = redis.call('GET', PREFIX .. 'hold:' .. id)
  if not packed then
    return nil
  end
  local record = cmsgpack.unpack(packed)
  if record[1] ~= 'open' and record[2] <= now then
    return nil
  end
  return record
end

-- The home realm of a part; nil for a hold that is at home.
local function home_of(record)
  return string.match(record[5], '^@(.+)$')
end

-- Where the lease of an open hold is kept: a part's does not end without asking its home.
local function leases_of(record)
  return home_of(record) and PARTS or LEASES
end

local function remember(id, record)
  local key = PREFIX .. 'hold:' .. id
  if record[1] == 'open' then
    write('SET', key, cmsgpack.pack(record))
  else
    write('SET', key, cmsgpack.pack(record), 'PXAT', milliseconds(record[2]))
  end
end

-- How long an id is remembered: from now, or from its mint time should Redis time have stepped back behind that.
local function remembered_until(id, keep_us)
  return math.max(now, minted_us(id)) + keep_us
end

local function expired_charge(posting)
  if posting[5] == 'concurrent_requests' then
    return 0
  end
  return posting[4]
end

-- The journal entry of a hold at home; of a part, what it did to the accounts of this realm.
local function journal(id, record, charge, basis, by_measure, detail)
  local correction = record[1] == 'expired' and '1' or '0'
  if home_of(record) then
    redis.call('XLEN', POSTINGS) -- only to find a key of another type before the first write
    write(
      'XADD', POSTINGS, '*',
      'id', id, 'us', text(now), 'charge', text(charge), 'hold', text(record[3]), 'basis', basis, 'correction', correction,
      'home', home_of(record)
    )
    return
  end
  redis.call('XLEN', JOURNAL) -- only to find a key of another type before the first write
  write(
    'XADD', JOURNAL, '*',
    'id', id, 'us', text(now), 'charge', text(charge), 'hold', text(record[3]),
    'in', text(by_measure.input_tokens), 'out', text(by_measure.output_tokens),
    'basis', basis, 'correction', correction, 'context', record[5], 'detail', detail
  )
end

-- Move every account of a hold: `held` and `spent` are asked for each posting.
local function post_all(record, amounts)
  for _, posting in ipairs(record[4]) do
    local held, spent = amounts(posting)
    local moved = post(posting, held, spent)
    if moved then
      spend_moved(moved, record[6], spent)
    end
  end
end

-- Replace what a hold set aside, or was charged when it expired, by the charge. Returns the result code and where the
-- lease was.
local function settle(record, asked, keep_us)
  local id, basis, by_measure = asked.id, asked.basis, asked.charge
  local leases = leases_of(record)
  local late = record[1] == 'expired'
  local cost = by_measure.cost - (late and record[3] or 0)
  post_all(record, function(posting)
    if late then
      return 0, by_measure[posting[5]] - expired_charge(posting)
    end
    return -posting[4], by_measure[posting[5]]
  end)
  if not home_of(record) then
    record_series(record[6], cost, by_measure.tokens)
  end
  if asked.fingerprint ~= WITHDRAWN then
    journal(id, record, cost, basis, by_measure, asked.detail)
  end
  remember(id, { 'resolved', remembered_until(id, keep_us), asked.fingerprint })
  if late then
    return 'corrected', leases
  end
  return basis == 'released' and 'released' or 'settled', leases
end

-- Settle, release or withdraw one hold. `asked` has id, basis, fingerprint, charge (by measure) and detail. Returns the
-- result code and where the lease was. Removing it is left to the script: where it stands among the writes matters there.
local function resolve(asked, keep_us)
  local id, fingerprint = asked.id, asked.fingerprint
  local record = hold_record(id)
  if not record or (record[3] == WITHDRAWN and fingerprint ~= WITHDRAWN) then
    if minted_us(id) < now - keep_us then
      return 'too_old', LEASES
    end
    local waiting = asked.basis ~= 'released' and asked or nil
    remember(id, { 'resolved', remembered_until(id, keep_us), fingerprint, waiting })
    return 'tombstoned', LEASES
  end
  local first = record[1] == 'open' and record[9]
  if first or record[1] == 'resolved' then
    local known = first and first.fingerprint or record[3]
    return known == fingerprint and 'exists' or 'already_resolved', LEASES
  end
  return settle(record, asked, keep_us)
end

-- Charge in full a hold whose lease ran out. What it was is kept, so that a late settle can correct it. A hold whose
-- settle was there before it is charged that instead. Returns whether the hold has expired.
local function expire(id, keep_us)
  local record = hold_record(id)
  if not record or record[1] ~= 'open' then
    return false
  end
  if record[9] then
    settle(record, record[9], keep_us)
    return false
  end
  post_all(record, function(posting)
    return -posting[4], expired_charge(posting)
  end)
  if not home_of(record) then
    record_series(record[6], record[3], 0)
  end
  journal(id, record, record[3], 'expired', UNCHARGED, '{}')
  -- What waited long may be told late: the hold of a batch can be corrected for as long again as it was held.
  local keep = math.max(keep_us, now - minted_us(id))
  remember(id, { 'expired', remembered_until(id, keep), record[3], record[4], record[5], record[6] })
  return true
end
