-- Says a ban. KEYS: the client's hash, the node's rate. ARGV: surfaces (w, m or wm), milliseconds left (-1: for ever), age in
-- milliseconds, record, node, the node's bans a minute, channel, target.
-- The hash holds for each surface s: `s` until, `sr` record, `sg` when a ban was lifted, `se` until when that is remembered.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local left, age = tonumber(ARGV[2]), tonumber(ARGV[3])
local since = now - age
local till = left < 0 and -1 or now + left
local new, lifted = '', ''
for s in string.gmatch(ARGV[1], '%a') do
  local gone = tonumber(redis.call('HGET', KEYS[1], s .. 'g') or '0')
  local have = tonumber(redis.call('HGET', KEYS[1], s) or '0')
  if gone >= since then
    lifted = lifted .. s
  elseif have ~= -1 and (till == -1 or have < till - 2000) then
    new = new .. s
  end
end
if new ~= '' then
  if redis.call('INCR', KEYS[2]) == 1 then redis.call('PEXPIRE', KEYS[2], 60000) end
  if tonumber(redis.call('GET', KEYS[2])) > tonumber(ARGV[6]) then return 'limited' end
  for s in string.gmatch(new, '%a') do
    redis.call('HSET', KEYS[1], s, till, s .. 'r', ARGV[4])
    redis.call('HDEL', KEYS[1], s .. 'g', s .. 'e')
  end
  local last = 0
  for _, field in ipairs({'w', 'm', 'we', 'me'}) do
    local t = tonumber(redis.call('HGET', KEYS[1], field) or '0')
    if t == -1 then last = -1 break end
    if t > last then last = t end
  end
  if last == -1 then redis.call('PERSIST', KEYS[1]) else redis.call('PEXPIREAT', KEYS[1], last) end
  redis.call('PUBLISH', ARGV[7], table.concat({'ban', ARGV[5], new, ARGV[2], ARGV[3], ARGV[8], ARGV[4]}, ' '))
end
return 'lifted ' .. lifted
