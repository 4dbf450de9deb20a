-- Gives back what rate_limit.lua charged at most `age` ms ago, as far as it certainly still counts: the twin of Counter::refund.
--
-- KEYS     one counter each, all in one slot
-- ARGV[1]  milliseconds since the epoch, or '' for the server's clock; ARGV[2]  age in ms
-- then for each key: algorithm letter, quota, window in ms, burst, cost
local call, max = redis.call, math.max
local now, age = tonumber(ARGV[1]), tonumber(ARGV[2])
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

for i = 1, #KEYS do
  local key, p = KEYS[i], i * 5 - 2
  local kind = string.lower(ARGV[p])
  local quota, window, cost = tonumber(ARGV[p + 1]), tonumber(ARGV[p + 2]), tonumber(ARGV[p + 4])
  if kind == 'l' then
    -- Units that may have left the window already are gone; taking others for them would make room twice.
    local left = age < window and cost or 0
    while left > 0 do
      local oldest = call('ZRANGEBYSCORE', key, string.format('%d', now - age), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
      if not oldest[2] then break end
      -- The highest numbers go, so that numbering goes on without a gap.
      local last = call('ZCOUNT', key, oldest[2], oldest[2])
      local prefix, taken = string.format('%d-', oldest[2]), math.min(left, last)
      for n = last - taken + 1, last do call('ZREM', key, prefix .. n) end
      left = left - taken
      call('ZREMRANGEBYSCORE', key, '-inf', string.format('%d', now - window))
    end
  else
    local value = call('GET', key) or ''
    local start, used = string.match(value, '^(%d+) (%d+)$')
    if kind == 'c' then
      local previous
      start, previous, used = string.match(value, '^(%d+) (%d+) (%d+)$')
      -- Only what was charged in the window that is still the current one.
      if start and tonumber(used) > 0 and tonumber(start) >= now - now % window and now - age >= tonumber(start) then
        value = string.format('%s %s %d', start, previous, max(0, used - cost))
        call('SET', key, value, 'KEEPTTL')
      end
    elseif kind == 'f' then
      if start and tonumber(used) > 0 and tonumber(start) >= now - now % window and now - age >= tonumber(start) then
        call('SET', key, string.format('%s %d', start, max(0, used - cost)), 'KEEPTTL')
      end
    elseif start then
      -- What may have run out since it was poured in cannot be taken out again.
      local level, at = tonumber(start), tonumber(used)
      level = max(0, level - max(0, now - at) * quota)
      local left = cost * window - age * quota
      if left > 0 and level > 0 then
        call('SET', key, string.format('%d %d', max(0, level - left), max(at, now)), 'KEEPTTL')
      end
    end
  end
end
return {}
