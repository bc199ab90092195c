-- Charge a part in full, as its home did with the whole hold. ARGV: the id, how long it is remembered.
redis.call('ZCARD', PARTS) -- only to find a key of another type before the first write
expire(ARGV[1], tonumber(ARGV[2]))
commit({ 'ZREM', PARTS, ARGV[1] })
return reply('expired')
