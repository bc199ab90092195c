-- Push the leases of open holds; none is pulled in. ARGV: lease in microseconds, then the ids.
local until_us = now + tonumber(ARGV[1])
local found = false
for i = 2, #ARGV do
  local lease = redis.call('ZSCORE', LEASES, ARGV[i])
  if lease then
    found = true
    if tonumber(lease) < until_us then
      write('ZADD', LEASES, 'XX', text(until_us), ARGV[i])
    end
  end
end
if found then
  commit({ 'ZREM', LEASES, '' }) -- removes nothing; a removal first lets a full Redis renew
end
return reply(found and 'renewed' or 'not_found')
