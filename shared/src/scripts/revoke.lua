-- Revokes a token, or what was issued to a subject up to a moment: the twin of revocation::State.
--
-- KEYS[1]  'before until', the end by a host's clock; it is read with GETEX
-- ARGV[1]  milliseconds since the epoch, or '' for the server's clock; ARGV[2]  ms; ARGV[3]  the moment, as far as the host
-- knows it; ARGV[4]  ms by which an issuer may be ahead; ARGV[5]  the end by the host's clock
--
-- Returns {0, before}. Every number stays below 2^53.
local call, max = redis.call, math.max
local key, now, leeway = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[4])
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local before, till = string.match(call('GET', key) or '', '^(%d+) (%d+)$')
before = max(tonumber(before) or 0, tonumber(ARGV[3]), now + leeway)
till = max(tonumber(till) or 0, tonumber(ARGV[5]))
call('SET', key, string.format('%d %d', before, till), 'PX', max(call('PTTL', key), tonumber(ARGV[2]) + 60000))
return { 0, before }
