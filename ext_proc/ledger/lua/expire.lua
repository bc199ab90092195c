-- Charge in full the holds whose lease ran out, oldest first. ARGV: the most to take, how long they are remembered.
-- Answers how many were taken and how many of them had nobody to settle them.
local overdue = redis.call('ZRANGEBYSCORE', LEASES, '-inf', text(now), 'LIMIT', 0, tonumber(ARGV[1]))
redis.call('ZCARD', ACCOUNTS) -- only to find a key of another type before the first write
local expired = 0
for _, id in ipairs(overdue) do
  expired = expired + (expire(id, tonumber(ARGV[2])) and 1 or 0)
end
if #overdue > 0 then
  commit({ 'ZREM', LEASES, unpack(overdue) })
end
-- Accounts that are forgotten, a day late: Redis time may step back. No figure moves, so there is nothing to number.
redis.call('ZREMRANGEBYSCORE', ACCOUNTS, '-inf', text(now - 86400000000))
return reply('expired', text(#overdue), text(expired))
