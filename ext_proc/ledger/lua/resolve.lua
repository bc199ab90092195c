-- Settle, release or withdraw, with the journal entry, in one step. The removal comes first: it is never refused for memory, and
-- after a script's first write nothing is, so that a full Redis still settles.
local asked = cjson.decode(ARGV[1])
local code, leases = resolve(asked, asked.keep_us)
if #writes > 0 then
  commit({ 'ZREM', leases, asked.id })
end
return reply(code)
