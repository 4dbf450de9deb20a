-- Revokes a token, or what was issued to a subject up to a moment: the twin of revocation::Revocation.
--
-- KEYS[1]  'before until'; it is read with GETEX
-- ARGV[1]  milliseconds since the epoch, or '' for the server's clock; ARGV[2]  ms; ARGV[3]  the moment, or '' for now
--
-- Returns {0}. Every number stays below 2^53.
local call, max = redis.call, math.max
local now = tonumber(ARGV[1])
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local before, till = string.match(call('GET', KEYS[1]) or '', '^(%d+) (%d+)$')
before = max(tonumber(before) or 0, tonumber(ARGV[3]) or now)
till = max(tonumber(till) or 0, now + tonumber(ARGV[2]))
call('SET', KEYS[1], string.format('%d %d', before, till), 'PX', till - now + 60000)
return { 0 }
