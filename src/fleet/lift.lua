-- Lifts the bans that are older than the lift. KEYS: the client's hash. ARGV: surfaces, when in milliseconds of the engine's clock, for how
-- many milliseconds the lift of a ban is remembered that is not known here, node, channel, target. That of a known one is remembered as long as the ban would
-- have lasted. Only a ban that is known is told on: so a lift never goes round in circles. One that is known changes nothing.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function number(field) return tonumber(redis.call('HGET', KEYS[1], field) or '') or 0 end
local at = math.min(now, tonumber(ARGV[2]))
local lifted = ''
for s in string.gmatch(ARGV[1], '%a') do
  local have, gone, memory = number(s), number(s .. 'g'), number(s .. 'e')
  -- At the same time: see ban.lua.
  local is_older = have ~= 0 and number(s .. 's') <= at + 5
  -- Said again it may have become some milliseconds younger.
  if is_older or gone + 1000 < at then
    local remembered = now + tonumber(ARGV[3])
    if is_older then
      lifted = lifted .. s
      if have == -1 or have > now then remembered = have end
      redis.call('HDEL', KEYS[1], s, s .. 's', s .. 'r', s .. 'a')
    end
    if memory == -1 or (remembered ~= -1 and memory > remembered) then remembered = memory end
    redis.call('HSET', KEYS[1], s .. 'e', remembered)
  end
  if at > gone then redis.call('HSET', KEYS[1], s .. 'g', at) end
end
local last = 0
for _, field in ipairs({'w', 'm', 'we', 'me'}) do
  local t = number(field)
  if t == -1 then last = -1 break end
  if t > last then last = t end
end
if last == -1 then redis.call('PERSIST', KEYS[1]) else redis.call('PEXPIREAT', KEYS[1], last) end
if lifted ~= '' then redis.call('PUBLISH', ARGV[5], table.concat({'lift', ARGV[4], lifted, string.format('%.0f', now - at), ARGV[6]}, ' ')) end
return lifted
