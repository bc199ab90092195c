-- The ledger's clock: the server's own, in microseconds. A file of its own so that a test can put its clock here.
local function server_us()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end
