-- Counts strikes over all nodes, as src/table/counter.rs does on one (fail2ban's FailTicket.adjustTime), by Redis's clock.
-- KEYS: the counter. ARGV: strikes, findtime in milliseconds, maxretry. Returns the count; a count that makes a ban starts again.
local strikes, findtime = tonumber(ARGV[1]), tonumber(ARGV[2])
local stored = redis.call('HMGET', KEYS[1], 'first', 'last', 'count')
local first, last, count = tonumber(stored[1] or now), tonumber(stored[2] or now), tonumber(stored[3] or 0)
if now > last then
  if first < now - findtime then
    -- Rounded half to even, as Python's round() does.
    local scaled = count / (now - first) * findtime
    local floor = math.floor(scaled)
    local rest = scaled - floor
    count = floor
    if rest > 0.5 or (rest == 0.5 and floor % 2 == 1) then count = floor + 1 end
    first = now - findtime
  end
  last = now
end
count = count + strikes
if count >= tonumber(ARGV[3]) then
  redis.call('DEL', KEYS[1])
else
  redis.call('HSET', KEYS[1], 'first', first, 'last', last, 'count', count)
  redis.call('PEXPIRE', KEYS[1], findtime)
end
return count
