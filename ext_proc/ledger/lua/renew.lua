-- Push the leases of open holds; none is pulled in. ARGV: lease in microseconds, then the ids.
local until_us = now + tonumber(ARGV[1])
local found = false
for i = 2, #ARGV do
  local leases = LEASES
  local lease = redis.call('ZSCORE', leases, ARGV[i])
  if not lease then
    leases = PARTS
    lease = redis.call('ZSCORE', leases, ARGV[i])
  end
  if lease then
    found = true
    write('ZADD', leases, 'GT', text(until_us), ARGV[i])
  end
end
if found then
  commit({ 'ZREM', LEASES, '' }) -- removes nothing; a removal first lets a full Redis renew
end
return reply(found and 'renewed' or 'not_found')
