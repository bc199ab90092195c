-- Charge a part in full, as its home did with the whole hold, once. ARGV: the id, how long it is remembered.
if redis.call('ZSCORE', PARTS, ARGV[1]) then
  expire(ARGV[1], tonumber(ARGV[2]))
  commit({ 'ZREM', PARTS, ARGV[1] })
end
return reply('expired')
