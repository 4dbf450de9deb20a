-- Looks at, probes, reports to and sets a circuit breaker: the twin of circuit_breaker::Breaker.
--
-- KEYS[1]  closed: '0 generation width number:successes:failures… REPORTER=number…', slices of time and who saw failures;
--          otherwise 'until generation successes ms HOLDER:end…', half-open once until has passed, with the probes under way;
--          ms for which it was opened
-- ARGV[1]  milliseconds since the epoch, or '' for the server's clock; ARGV[2]  v view, p probe, r report, f force
-- ARGV[3]  how many probes; ARGV[4]  ms of a probe
-- then p: holder; r and f: ms to be open (f: 0 to close), ms of a slice;
-- r: failures, or calls if a percentage counts, that are enough; percentage or 0; reporters that are enough;
--    reporter, successes, failures; holder of a probe or '', its generation
--
-- Returns {0} closed, {1, ms, generation} open, {2, free probes, ms until one is free, generation} half-open,
-- {3, generation} to whoever may probe.
-- Every number stays below 2^53. A time to live collects garbage only, so it is generous: clocks step back.
local call, max, min, format, gmatch = redis.call, math.max, math.min, string.format, string.gmatch
local key, verb, probes, probe_ms = KEYS[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local now = tonumber(ARGV[1])
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

local text = call('GET', key) or ''
local till, generation, third, span = string.match(text, '^(%d+) (%d+) (%d+) ?(%d*)')
till, generation, third, span = tonumber(till) or 0, tonumber(generation) or 0, tonumber(third) or 0, tonumber(span) or 0
if till > 0 and till + 86400000 <= now then till, third = 0, 0 end

-- The probes under way, unless it is closed. Fewer have succeeded than it takes, even if it took more before.
-- What ends later than it can was written by a clock that was ahead, and is moved.
local live, first, moved = {}, nil, false
if till > 0 then
  third = min(third, probes - 1)
  if till > now + span then till, moved = now + span, true end
  for holder, ends in gmatch(text, '(%x+):(%d+)') do
    ends = tonumber(ends)
    if ends > now + probe_ms then ends, moved = now + probe_ms, true end
    if ends > now then
      live[#live + 1] = { holder, ends }
      first = min(first or ends, ends)
    end
  end
end

local function free() return max(0, probes - third - #live) end

local function view()
  if till == 0 then return { 0 } end
  if till > now then return { 1, till - now, generation } end
  return { 2, free(), free() == 0 and first and first - now or 0, generation }
end

local function put(rest)
  local ttl = till > 0 and till - now + 86400000 or third * 8
  call('SET', key, format('%d %d %d', till, generation, third) .. rest, 'PX', ttl + 60000)
end

-- Opens it for so long, or closes it, and forgets everything else.
local function set(ms)
  generation, live, first = max(generation + 1, now), {}, nil
  if ms > 0 then till, third, span = now + ms, 0, ms else till, third = 0, tonumber(ARGV[6]) end
  put(till > 0 and format(' %d', span) or '')
end

local function put_probes()
  local rest = format(' %d', span)
  for _, probe in ipairs(live) do rest = rest .. format(' %s:%d', probe[1], probe[2]) end
  put(rest)
end

if moved then put_probes() end
if verb == 'f' then
  set(tonumber(ARGV[5]))
elseif verb == 'p' and till > 0 and till <= now then
  local ends, mine = now + probe_ms, nil
  for _, probe in ipairs(live) do
    if probe[1] == ARGV[5] then mine = probe end
  end
  if mine then
    mine[2] = max(mine[2], ends)
  elseif free() > 0 then
    live[#live + 1] = { ARGV[5], ends }
  else
    return view()
  end
  put_probes()
  return { 3, generation }
elseif verb == 'r' and ARGV[13] ~= '' then
  if till > 0 and tonumber(ARGV[14]) == generation then
    if tonumber(ARGV[12]) > 0 then
      -- However late: it says that the upstream fails.
      set(tonumber(ARGV[5]))
    else
      for i, probe in ipairs(live) do
        if probe[1] == ARGV[13] then
          table.remove(live, i)
          if tonumber(ARGV[11]) > 0 then third = third + 1 end
          if third >= probes then set(0) else put_probes() end
          first = nil
          for _, other in ipairs(live) do first = min(first or other[2], other[2]) end
          break
        end
      end
    end
  end
elseif verb == 'r' and till == 0 then
  local width, enough, percent = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
  local successes, failures = tonumber(ARGV[11]), tonumber(ARGV[12])
  if failures == 0 and (successes == 0 or percent == 0) then return view() end

  -- Slices of another width were counted before the policy changed. Those too far ahead were counted by a clock that was wrong.
  local known = third == width and text or ''
  local seen, current = {}, math.floor(now / width)
  local latest = current + 8
  for number in gmatch(known, '(%d+):%d+:') do
    number = tonumber(number)
    if number <= latest then current = max(current, number) end
  end
  local rest, calls, failed = '', 0, 0
  local function count(number, s, f)
    rest, calls, failed = rest .. format(' %d:%d:%d', number, s, f), calls + s + f, failed + f
  end
  for number, s, f in gmatch(known, '(%d+):(%d+):(%d+)') do
    number, s, f = tonumber(number), tonumber(s), tonumber(f)
    if number == current then
      successes, failures = successes + s, failures + f
    elseif number + 8 > current and number <= latest then
      count(number, s, f)
    end
  end
  count(current, min(successes, 1e9), min(failures, 1e9))
  for reporter, number in gmatch(known, '(%x+)=(%d+)') do
    local counts = tonumber(number) + 8 > current and tonumber(number) <= latest
    if counts and not (tonumber(ARGV[12]) > 0 and reporter == ARGV[10]) then
      seen[#seen + 1] = format(' %s=%s', reporter, number)
    end
  end
  if tonumber(ARGV[12]) > 0 then
    if #seen >= 32 then table.remove(seen, 1) end
    seen[#seen + 1] = format(' %s=%d', ARGV[10], current)
  end
  local volume = percent == 0 and failed or calls
  if volume >= enough and failed * 100 >= calls * percent and #seen >= tonumber(ARGV[9]) then
    set(tonumber(ARGV[5]))
  else
    third = width
    put(rest .. table.concat(seen))
  end
end
return view()
