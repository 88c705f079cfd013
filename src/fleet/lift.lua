-- Lifts a ban. KEYS: the client's hash. ARGV: surfaces, age in milliseconds, for how many milliseconds a lift is remembered at least
-- and at most, node, channel, target. Only a ban that the engine has is told on: so a lift never goes round in circles.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local at = now - tonumber(ARGV[2])
local lifted, last = '', 0
for s in string.gmatch(ARGV[1], '%a') do
  local have = tonumber(redis.call('HGET', KEYS[1], s) or '0')
  local remembered = now + tonumber(ARGV[3])
  if have ~= 0 then
    lifted = lifted .. s
    if have == -1 then remembered = now + tonumber(ARGV[4]) elseif have > remembered then remembered = have end
  end
  redis.call('HDEL', KEYS[1], s, s .. 'r')
  redis.call('HSET', KEYS[1], s .. 'g', at, s .. 'e', remembered)
end
for _, field in ipairs({'w', 'm', 'we', 'me'}) do
  local t = tonumber(redis.call('HGET', KEYS[1], field) or '0')
  if t == -1 then last = -1 break end
  if t > last then last = t end
end
if last == -1 then redis.call('PERSIST', KEYS[1]) else redis.call('PEXPIREAT', KEYS[1], last) end
if lifted ~= '' then redis.call('PUBLISH', ARGV[6], table.concat({'lift', ARGV[5], lifted, ARGV[7]}, ' ')) end
return lifted
