-- Gives back what rate_limit.lua charged, as far as it certainly still counts: the twin of Counter::refund.
--
-- KEYS     one counter each, all in one slot
-- ARGV[1]  milliseconds since the epoch, or '' for the server's clock; ARGV[2]  the time that rate_limit.lua returned
-- then for each key: algorithm letter, quota, window in ms, burst, cost
local call, format, match, max = redis.call, string.format, string.match, math.max
local now, at = tonumber(ARGV[1]), tonumber(ARGV[2])
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

for i = 1, #KEYS do
  local key, p = KEYS[i], i * 5 - 2
  local kind = string.lower(ARGV[p])
  local quota, window, cost = tonumber(ARGV[p + 1]), tonumber(ARGV[p + 2]), tonumber(ARGV[p + 4])
  -- Only what was charged in the window that is still the current one, and not by a clock that was wrong.
  local start = at - at % window
  local current = start >= now - now % window and start <= now - now % window + window
  if kind == 'l' then
    local last = at + window > now and at <= now + window and call('ZCOUNT', key, at, at) or 0
    -- The highest numbers go, so that numbering goes on without a gap.
    for n = last - math.min(cost, last) + 1, last do call('ZREM', key, format('%d-%d', at, n)) end
    -- As in the twin, a counter that is written again forgets what left its window, and what is too far ahead.
    if last > 0 then
      call('ZREMRANGEBYSCORE', key, '-inf', format('%d', now - window))
      call('ZREMRANGEBYSCORE', key, format('(%d', now + window), '+inf')
    end
  elseif kind == 'f' then
    local stored, used = match(call('GET', key) or '', '^(%d+) (%d+)$')
    if current and tonumber(stored) == start and tonumber(used) > 0 then
      call('SET', key, format('%s %d', stored, max(0, used - cost)), 'KEEPTTL')
    end
  elseif kind == 'c' then
    local stored, previous, used = match(call('GET', key) or '', '^(%d+) (%d+) (%d+)$')
    if current and tonumber(stored) == start and tonumber(used) > 0 then
      call('SET', key, format('%s %s %d', stored, previous, max(0, used - cost)), 'KEEPTTL')
    end
  else
    local level, measured = match(call('GET', key) or '', '^(%d+) (%d+)$')
    if level and measured - now <= window then
      -- What may have run out since it was poured in cannot be taken out again.
      local left = cost * window - max(0, now - at) * quota
      level = max(0, level - max(0, now - measured) * quota)
      if left > 0 and level > 0 then
        call('SET', key, format('%d %d', max(0, level - left), max(measured, now)), 'KEEPTTL')
      end
    end
  end
end
return {}
