-- Charges every counter that has room, unless an enforced one has none: the twin of rate_limit::decide.
--
-- KEYS     one counter each, all in one slot
-- ARGV[1]  milliseconds since the epoch, or '' for the server's clock
-- then for each key: algorithm letter (capital: shadow, not enforced), quota, window in ms, burst, cost
--
-- Returns the time it went by, and for each key: remaining, reset in ms, retry (0 now, -1 never, otherwise ms).
-- Every number stays below 2^53. A time to live collects garbage only, so it is generous: clocks step back.
local call, match, format, floor, ceil, max = redis.call, string.match, string.format, math.floor, math.ceil, math.max
local now = tonumber(ARGV[1])
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + floor(time[2] / 1000)
end

-- The counter at hand. Three numbers: f start, used, -; c start, previous, current; g level, at, -; l stale members, used, members ahead.
-- A start or time that is more than a window ahead was written by a clock that was wrong, and counts for nothing.
-- With one key these stay as they are from the first loop to the second; with several they are kept in between.
local key, letter, kind, quota, window, burst, cost, a, b, c, retry
local kept = #KEYS > 1 and {}

-- Milliseconds until `room` can be consumed at once.
local function wait(room)
  if kind == 'g' then
    local excess = a - (burst - room) * window
    if excess <= 0 then return 0 end
    return b - now + ceil(excess / quota)
  elseif kind == 'f' then
    if b + room <= quota then return 0 end
    return a + window - now
  elseif kind == 'l' then
    local surplus = b + room - quota
    if surplus <= 0 then return 0 end
    local rank = a + surplus - 1
    local oldest = call('ZRANGE', key, rank, rank, 'WITHSCORES')
    if not oldest[2] then return 0 end
    return oldest[2] + window - now
  end
  local elapsed, target = max(0, now - a), quota - room
  local excess = b * (window - elapsed) + (c - target) * window
  if excess <= 0 then return 0 end
  local behind = max(0, a - now)
  if c <= target then return behind + ceil(excess / b) end
  return behind + window - elapsed + ceil((c - target) * window / c)
end

local admitted = true
for i = 1, #KEYS do
  local p = i * 5 - 3
  key, letter = KEYS[i], ARGV[p]
  kind = string.lower(letter)
  quota, window, burst, cost = tonumber(ARGV[p + 1]), tonumber(ARGV[p + 2]), tonumber(ARGV[p + 3]), tonumber(ARGV[p + 4])
  if kind == 'g' then
    local level, at = match(call('GET', key) or '', '^(%d+) (%d+)$')
    a, b = 0, now
    if level and at - now <= window then
      b = max(at, now)
      a = max(0, level - (b - at) * quota)
      if a == 0 then b = now end
    end
  elseif kind == 'f' then
    local start, used = match(call('GET', key) or '', '^(%d+) (%d+)$')
    a, b = now - now % window, 0
    start = tonumber(start)
    if start and start >= a and start <= a + window then a, b = start, tonumber(used) end
  elseif kind == 'c' then
    local start, previous, current = match(call('GET', key) or '', '^(%d+) (%d+) (%d+)$')
    start = tonumber(start)
    a, b, c = now - now % window, 0, 0
    if start and start >= a and start <= a + window then
      a, b, c = start, tonumber(previous), tonumber(current)
    elseif start and start + window == a then
      b = tonumber(current)
    end
  else
    b = call('ZCOUNT', key, format('(%d', now - window), now + window)
    a, c = call('ZCARD', key) - b, 0
    if a > 0 then
      c = call('ZCOUNT', key, format('(%d', now + window), '+inf')
      a = a - c
    end
  end
  retry = cost > burst and -1 or wait(cost)
  if retry ~= 0 and kind == letter then admitted = false end
  if kept then kept[i] = { key, letter, kind, quota, window, burst, cost, a, b, c or 0, retry } end
end

local reply = { now, 0, 0, 0 }
for i = 1, #KEYS do
  if kept then key, letter, kind, quota, window, burst, cost, a, b, c, retry = unpack(kept[i]) end
  local spend, grace = admitted and retry == 0 and cost > 0, window < 60000 and window or 60000
  local remaining
  if kind == 'g' then
    if spend then
      a = a + cost * window
      call('SET', key, format('%d %d', a, b), 'PX', b - now + ceil(a / quota) + grace)
    end
    remaining = floor((burst * window - a) / window)
  elseif kind == 'f' then
    if spend then
      b = b + cost
      call('SET', key, format('%d %d', a, b), 'PX', a + window - now + grace)
    end
    remaining = quota - b
  elseif kind == 'c' then
    if spend then
      c = c + cost
      call('SET', key, format('%d %d %d', a, b, c), 'PX', a + 2 * window - now + grace)
    end
    remaining = floor((quota * window - b * (window - max(0, now - a)) - c * window) / window)
  else
    if spend then
      -- Here and not above, so that a refusal writes nothing.
      if a > 0 then call('ZREMRANGEBYRANK', key, 0, a - 1) end
      if c > 0 then call('ZREMRANGEBYRANK', key, -c, -1) end
      a = 0
      -- Members of one millisecond are numbered, so that none takes another's place.
      local prefix, from = format('%d-', now), call('ZCOUNT', key, now, now)
      for first = 1, cost, 1000 do
        local members = {}
        for n = first, math.min(cost, first + 999) do
          members[#members + 1] = now
          members[#members + 1] = prefix .. (from + n)
        end
        call('ZADD', key, unpack(members))
      end
      call('PEXPIRE', key, window + grace)
      b = b + cost
    end
    remaining = quota - b
  end
  remaining = max(0, remaining)
  local reset = remaining < burst and wait(remaining + 1) or 0
  reply[i * 3 - 1], reply[i * 3], reply[i * 3 + 1] = remaining, reset, retry
end
return reply
