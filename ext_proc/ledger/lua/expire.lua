-- Charge in full the holds whose lease ran out, oldest first. ARGV: the most to take, how long they are remembered.
local overdue = redis.call('ZRANGEBYSCORE', LEASES, '-inf', text(now), 'LIMIT', 0, tonumber(ARGV[1]))
redis.call('ZCARD', ACCOUNTS) -- only to find a key of another type before the first write
for _, id in ipairs(overdue) do
  expire(id, tonumber(ARGV[2]))
end
if #overdue > 0 then
  write('ZREMRANGEBYSCORE', ACCOUNTS, '-inf', text(now - 86400000000)) -- a day late: Redis time may step back
  commit({ 'ZREM', LEASES, unpack(overdue) })
end
return reply('expired', text(#overdue))
