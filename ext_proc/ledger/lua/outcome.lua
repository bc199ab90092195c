-- How a hold of this realm ended, for a realm that keeps a part of it. One that is unknown here was never granted: it is
-- withdrawn, so that it cannot arrive later. ARGV: the id, how long it is remembered.
local id, keep_us = ARGV[1], tonumber(ARGV[2])
local record = hold_record(id)
if not record then
  if minted_us(id) < now - keep_us then
    return reply('too_old')
  end
  remember(id, { 'resolved', remembered_until(id, keep_us), WITHDRAWN })
  commit({ 'ZREM', LEASES, '' }) -- removes nothing; a removal first lets a full Redis take it
  return reply('resolved', WITHDRAWN)
elseif record[1] == 'open' then
  return reply('open')
elseif record[1] == 'expired' then
  return reply('expired')
end
return reply('resolved', record[3])
