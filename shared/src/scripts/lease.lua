-- Takes, extends and ends leases: the twin of lease::Lease.
--
-- KEYS[1]  'HOLDER until fence ms', the ms for which it was taken, and ' noticed', since when it has seemed to end too late
-- ARGV[1]  milliseconds since the epoch, or '' for the server's clock
-- ARGV[2]  a acquire, e extend, r release; then the holder; a and e: ms; a: 1 for a fence, otherwise 0
--
-- Returns {0}, to a and e {0, fence}; {1} if another holds it or nobody does, to a {1, ms until it ends}.
-- Every number stays below 2^53. A time to live collects garbage only, so it is generous: clocks step back.
local call, max = redis.call, math.max
local key, verb, holder = KEYS[1], ARGV[2], ARGV[3]
local now = tonumber(ARGV[1])
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local held_by, till, fence, span, noticed =
  string.match(call('GET', key) or '', '^(%x+) (%d+) (%d+) ?(%d*) ?(%d*)$')
till, fence, span, noticed = tonumber(till) or 0, tonumber(fence) or 0, tonumber(span), tonumber(noticed) or 0
span = span or till

local function put(name, ends, rest)
  local grace = fence == 0 and 60000 or 86400000
  call('SET', key, string.format('%s %d %d %d', name, ends, fence, span) .. rest, 'PX', max(0, ends - now) + grace)
end

-- It ends later than it can, by more than clocks differ: one was ahead when it was taken, or is behind now.
if till > now + span + 60000 then
  if noticed == 0 or noticed > now then
    noticed = now
    put(held_by, till, string.format(' %d', noticed))
  end
  till = noticed + span
end
if till > now then
  if held_by ~= holder then return verb == 'a' and { 1, till - now } or { 1 } end
elseif verb ~= 'a' then
  return { 1 }
else
  fence = ARGV[5] == '1' and max(fence + 1, now) or 0
end

-- A fence is remembered for a day after its lease.
if verb == 'r' then
  if fence == 0 then call('DEL', key) else put(holder, 0, '') end
  return { 0 }
end
till = max(till, now + tonumber(ARGV[4]))
span = till - now
put(holder, till, '')
return { 0, fence }
