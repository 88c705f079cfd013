-- Stores and publishes a ban. KEYS: the client's hash, the node's rate counter, the hash of forgotten nodes, the counter of the strikes
-- that made the ban, which starts again. ARGV: services, end, start, record, node, its bans per minute, channel, target, instance.
-- Returns new, known (a ban that lasts as long is stored), unbanned (later than it began), limited or over.
redis.call('DEL', KEYS[4])
local till, since, node = tonumber(ARGV[2]), math.min(now, tonumber(ARGV[3])), ARGV[5]
if till ~= -1 and till <= now then return 'over' end
if forgotten_at(KEYS[3], node) >= since then return 'unbanned' end
local new, status = '', 'known'
for s in string.gmatch(ARGV[1], '%a') do
  local have = number(KEYS[1], s)
  local its_node = redis.call('HGET', KEYS[1], s .. 'n')
  local is_forgotten = its_node and forgotten_at(KEYS[3], its_node) >= number(KEYS[1], s .. 's')
  if is_forgotten or (have ~= -1 and have < now) then have = 0 end
  if number(KEYS[1], s .. 'g') >= since + TIE then
    status = 'unbanned'
  elseif have ~= -1 and (till == -1 or have < till - 2000) then
    -- Nodes round ends up to whole seconds, hence the two seconds.
    new = new .. s
  end
end
if new == '' then return status end
local rate = redis.pcall('INCR', KEYS[2])
if type(rate) ~= 'number' then
  redis.call('DEL', KEYS[2])
  rate = redis.call('INCR', KEYS[2])
end
-- The minutes in which nodes count too (admission.rs), so that all of them admit the same bans.
if rate == 1 then redis.call('PEXPIREAT', KEYS[2], now - now % 60000 + 60000) end
if rate > tonumber(ARGV[6]) then return 'limited' end
for s in string.gmatch(new, '%a') do
  redis.call('HSET', KEYS[1], s, ARGV[2], s .. 's', text(since), s .. 'r', ARGV[4], s .. 'n', node, s .. 'a', text(now))
end
expire(KEYS[1])
redis.call('PUBLISH', ARGV[7], table.concat({'ban', node, ARGV[9], new, ARGV[2], text(since), text(now), ARGV[8], ARGV[4]}, ' '))
return 'new'
