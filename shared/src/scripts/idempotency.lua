-- Reserves idempotency keys and keeps responses: the twin of idempotency::Reservation.
--
-- KEYS[1]  'HOLDER until fence ms/noticed FINGERPRINT', the ms for which it is reserved or kept, since when it has seemed to
--          end too late or 0; and ' RESPONSE' in base64 once it is kept
-- ARGV[1]  milliseconds since the epoch, or '' for the server's clock
-- ARGV[2]  s reserve, k keep, a abandon; then the holder; s and k: ms; s: the fingerprint; k: the response
--
-- Returns to s {0, fence}, {1, ms} while the first request is under way, {2} if it was another, or the response;
-- to k and a {0}, or {1} if the reservation has ended.
-- Every number stays below 2^53. A time to live collects garbage only, so it is generous: clocks step back.
local call, max = redis.call, math.max
local key, verb, holder = KEYS[1], ARGV[2], ARGV[3]
local now = tonumber(ARGV[1])
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local text = call('GET', key) or ''
local held_by, till, fence, span, noticed, fingerprint, response =
  string.match(text, '^(%x+) (%d+) (%d+) (%d+)/(%d+) (%x+)(.*)$')
if not held_by then held_by, till, fence, fingerprint, response = string.match(text, '^(%x+) (%d+) (%d+) (%x+)(.*)$') end
till, fence, span, noticed = tonumber(till) or 0, tonumber(fence) or 0, tonumber(span), tonumber(noticed) or 0
span = span or till

local function put(name, ends, last)
  local head = string.format('%s %d %d %d/%d %s', name, ends, fence, span, noticed, fingerprint)
  call('SET', key, head .. last, 'PX', max(0, ends - now) + 60000)
end

-- It ends later than it can, by more than clocks differ: one was ahead when it was written, or is behind now.
if till > now + span + 60000 then
  if noticed == 0 or noticed > now then
    noticed = now
    put(held_by, till, response)
  end
  till = noticed + span
end
local held, kept = till > now, response and response ~= ''
local ours = held and held_by == holder

if verb == 's' then
  if held then
    if fingerprint ~= ARGV[5] then return { 2 } end
    if kept then return string.sub(response, 2) end
    if not ours then return { 1, till - now } end
  else
    fence, fingerprint = max(fence + 1, now), ARGV[5]
  end
  till = max(till, now + tonumber(ARGV[4]))
  span, noticed = till - now, 0
  put(holder, till, '')
  return { 0, fence }
end

if not ours or kept and verb == 'a' then return { 1 } end
if verb == 'a' then
  put(holder, 0, '')
elseif not kept then
  span, noticed = tonumber(ARGV[4]), 0
  put(holder, now + span, ' ' .. ARGV[5])
end
return { 0 }
