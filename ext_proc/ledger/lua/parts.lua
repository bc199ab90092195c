-- Parts of holds over several realms whose lease ran out, oldest first, each with the realm that knows how the hold
-- ended. ARGV: the most to name.
local overdue = redis.call('ZRANGEBYSCORE', PARTS, '-inf', text(now), 'LIMIT', 0, tonumber(ARGV[1]))
local named = {}
for i, id in ipairs(overdue) do
  local record = hold_record(id)
  named[i] = id .. ' ' .. (record and home_of(record) or '')
end
return reply('seen', unpack(named))
