-- Charges every counter that has room, unless an enforced one has none: the twin of rate_limit::decide.
--
-- KEYS     one counter each, all in one slot
-- ARGV[1]  milliseconds since the epoch, or '' for the server's clock
-- then for each key: algorithm letter (capital: shadow, not enforced), quota, window in ms, burst, cost
--
-- Returns for each key: remaining, reset in ms, retry (0 now, -1 never, otherwise ms).
-- Every number stays below 2^53. A time to live collects garbage only, so it is generous: clocks step back.
local call, floor, ceil, max = redis.call, math.floor, math.ceil, math.max
local now = tonumber(ARGV[1])
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + floor(time[2] / 1000)
end

-- Three numbers a counter: f start, used, -; c start, previous, current; g level, at, -; l stale members, used, -.
local a, b, c, waits = {}, {}, {}, {}

-- Milliseconds until `room` of counter i can be consumed at once.
local function wait(i, kind, quota, window, burst, room)
  if kind == 'f' then
    if b[i] + room <= quota then return 0 end
    return a[i] + window - now
  elseif kind == 'g' then
    local excess = a[i] - (burst - room) * window
    if excess <= 0 then return 0 end
    return b[i] - now + ceil(excess / quota)
  elseif kind == 'l' then
    local surplus = b[i] + room - quota
    if surplus <= 0 then return 0 end
    local rank = a[i] + surplus - 1
    local oldest = call('ZRANGE', KEYS[i], rank, rank, 'WITHSCORES')
    if not oldest[2] then return 0 end
    return oldest[2] + window - now
  end
  local elapsed, target = max(0, now - a[i]), quota - room
  local excess = b[i] * (window - elapsed) + (c[i] - target) * window
  if excess <= 0 then return 0 end
  local behind = max(0, a[i] - now)
  if c[i] <= target then return behind + ceil(excess / b[i]) end
  return behind + window - elapsed + ceil((c[i] - target) * window / c[i])
end

local admitted = true
for i = 1, #KEYS do
  local key, p = KEYS[i], i * 5 - 3
  local letter = ARGV[p]
  local kind = string.lower(letter)
  local quota, window = tonumber(ARGV[p + 1]), tonumber(ARGV[p + 2])
  local burst, cost = tonumber(ARGV[p + 3]), tonumber(ARGV[p + 4])
  if kind == 'f' then
    local start, used = string.match(call('GET', key) or '', '^(%d+) (%d+)$')
    a[i], b[i] = now - now % window, 0
    if start and tonumber(start) >= a[i] then a[i], b[i] = tonumber(start), tonumber(used) end
  elseif kind == 'c' then
    local start, previous, current = string.match(call('GET', key) or '', '^(%d+) (%d+) (%d+)$')
    start = tonumber(start)
    a[i], b[i], c[i] = now - now % window, 0, 0
    if start and start >= a[i] then
      a[i], b[i], c[i] = start, tonumber(previous), tonumber(current)
    elseif start and start + window == a[i] then
      b[i] = tonumber(current)
    end
  elseif kind == 'g' then
    local level, at = string.match(call('GET', key) or '', '^(%d+) (%d+)$')
    a[i], b[i] = 0, now
    if level then
      at = tonumber(at)
      a[i], b[i] = max(0, level - max(0, now - at) * quota), max(at, now)
    end
  else
    b[i] = call('ZCOUNT', key, string.format('(%.0f', now - window), '+inf')
    a[i] = call('ZCARD', key) - b[i]
  end
  waits[i] = cost > burst and -1 or wait(i, kind, quota, window, burst, cost)
  if waits[i] ~= 0 and kind == letter then admitted = false end
end

local reply = {}
for i = 1, #KEYS do
  local key, p = KEYS[i], i * 5 - 3
  local kind = string.lower(ARGV[p])
  local quota, window = tonumber(ARGV[p + 1]), tonumber(ARGV[p + 2])
  local burst, cost = tonumber(ARGV[p + 3]), tonumber(ARGV[p + 4])
  local spend, grace = admitted and waits[i] == 0 and cost > 0, math.min(window, 60000)
  local remaining
  if kind == 'f' then
    if spend then
      b[i] = b[i] + cost
      call('SET', key, string.format('%.0f %.0f', a[i], b[i]), 'PX', a[i] + window - now + grace)
    end
    remaining = quota - b[i]
  elseif kind == 'c' then
    if spend then
      c[i] = c[i] + cost
      call('SET', key, string.format('%.0f %.0f %.0f', a[i], b[i], c[i]), 'PX', a[i] + 2 * window - now + grace)
    end
    remaining = floor((quota * window - b[i] * (window - max(0, now - a[i])) - c[i] * window) / window)
  elseif kind == 'g' then
    if spend then
      a[i] = a[i] + cost * window
      call('SET', key, string.format('%.0f %.0f', a[i], b[i]), 'PX', b[i] - now + ceil(a[i] / quota) + grace)
    end
    remaining = floor((burst * window - a[i]) / window)
  else
    if spend then
      -- Here and not above, so that a refusal writes nothing.
      if a[i] > 0 then call('ZREMRANGEBYRANK', key, 0, a[i] - 1) end
      a[i] = 0
      -- Members of one millisecond are numbered, so that none takes another's place.
      local prefix, from = string.format('%.0f-', now), call('ZCOUNT', key, now, now)
      for first = 1, cost, 1000 do
        local members = {}
        for n = first, math.min(cost, first + 999) do
          members[#members + 1] = now
          members[#members + 1] = prefix .. (from + n)
        end
        call('ZADD', key, unpack(members))
      end
      call('PEXPIRE', key, window + grace)
      b[i] = b[i] + cost
    end
    remaining = quota - b[i]
  end
  remaining = max(0, remaining)
  local reset = 0
  if remaining < burst then reset = wait(i, kind, quota, window, burst, remaining + 1) end
  reply[i * 3 - 2], reply[i * 3 - 1], reply[i * 3] = remaining, reset, waits[i]
end
return reply
