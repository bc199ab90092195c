-- Open a latched account again. ARGV: kind, name, a note for the journal.
local a = account(ARGV[1], ARGV[2])
redis.call('XLEN', JOURNAL) -- only to find a key of another type before the first write
if redis.call('EXISTS', latch_key(a)) == 0 then
  return reply('not_found')
end
write('DEL', latch_key(a))
write('XADD', JOURNAL, '*', 'event', 'resumed', 'us', text(now), 'account', ARGV[1] .. ':' .. ARGV[2],
  'spent', text(a.spent), 'note', ARGV[3])
commit()
return reply('resumed')
