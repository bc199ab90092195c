-- Begin an account anew by hand: what was held in the old generation settles there. ARGV: kind, name, a note for the
-- journal.
local a = account(ARGV[1], ARGV[2])
if not a.generation then
  return reply('not_found')
end
redis.call('XLEN', JOURNAL) -- only to find keys of another type before the first write
redis.call('ZCARD', top_key(a))
increment(a.key, 'spent:' .. a.generation, a.spent)
write('HINCRBY', a.key, 'held:' .. a.generation, text(a.held))
increment(a.key, 'spent', -a.spent)
increment(a.key, 'held', -a.held)
write('HSET', a.key, 'gen', text(seq + 1), 'crossed', '0')
write('DEL', top_key(a))
write('XADD', JOURNAL, '*', 'event', 'reset', 'us', text(now), 'account', ARGV[1] .. ':' .. ARGV[2],
  'spent', text(a.spent), 'note', ARGV[3])
commit()
return reply('reset')
