-- The time, the epoch and the sequence; gives an empty Redis its epoch.
if epoch == '' then
  epoch = text(now)
  redis.call('HSET', CLOCK, 'epoch', epoch)
end
return reply('seen')
