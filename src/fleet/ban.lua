-- Says a ban. KEYS: the client's hash, the speaker's rate, the hash of what was forgotten; if the ban was made just now, the counter of the
-- strikes that made it, which starts anew. ARGV: surfaces (w, m or wm), until (-1:
-- for ever) and since when in milliseconds of the engine's clock, record, speaker, its bans a minute, channel, target, author. Returns new, known, limited or over, the
-- surfaces on which it was lifted since, and, after another space, those of them on which the client was banned anew.
-- The hash holds for each surface s: `s` until, `ss` since, `sr` record, `sa` when it was accepted here and from whom; `sg` when a ban was lifted, `se` until when that is remembered.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function number(field) return tonumber(redis.call('HGET', KEYS[1], field) or '') or 0 end
if KEYS[4] then redis.call('DEL', KEYS[4]) end
local till, since = tonumber(ARGV[2]), math.min(now, tonumber(ARGV[3]))
if till ~= -1 and till <= now then return 'over  ' end
-- Whatever a stranger put in its place: no error of this key may keep all from being said.
local kept = redis.pcall('HGET', KEYS[3], ARGV[9])
local forgotten = tonumber(type(kept) == 'string' and kept or '') or 0
local new, lifted, anew = '', '', ''
-- Clocks are known to some milliseconds: where two things happened at the same time, the later to arrive counts.
local tie = 5
for s in string.gmatch(ARGV[1], '%a') do
  local have, gone = number(s), number(s .. 'g')
  if have ~= -1 and have < now then have = 0 end
  if forgotten > 0 and forgotten >= since then
    lifted = lifted .. s
    if have ~= 0 then anew = anew .. s end
  elseif gone >= since + tie then
    -- What stands here was banned after that. An older ban of the same end is not told from it.
    if have == 0 or (have ~= -1 and (till == -1 or have < till - 2000)) then lifted = lifted .. s end
    if have ~= 0 then anew = anew .. s end
  elseif have ~= -1 and (till == -1 or have < till - 2000) then
    new = new .. s
  end
end
lifted = ' ' .. lifted .. ' ' .. anew
if new == '' then return 'known' .. lifted end
local rate = redis.pcall('INCR', KEYS[2])
if type(rate) ~= 'number' then
  redis.call('DEL', KEYS[2])
  rate = redis.call('INCR', KEYS[2])
end
if rate == 1 then redis.call('PEXPIRE', KEYS[2], 60000) end
if rate > tonumber(ARGV[6]) then return 'limited' .. lifted end
for s in string.gmatch(new, '%a') do
  redis.call('HSET', KEYS[1], s, till, s .. 's', since, s .. 'r', ARGV[4], s .. 'a', string.format('%.0f ', now) .. ARGV[5])
end
local last = 0
for _, field in ipairs({'w', 'm', 'we', 'me'}) do
  local t = number(field)
  if t == -1 then last = -1 break end
  if t > last then last = t end
end
if last == -1 then redis.call('PERSIST', KEYS[1]) else redis.call('PEXPIREAT', KEYS[1], last) end
local left = till == -1 and '-1' or string.format('%.0f', till - now)
redis.call('PUBLISH', ARGV[7], table.concat({'ban', ARGV[5], new, left, string.format('%.0f', now - since), ARGV[8], ARGV[4]}, ' '))
return 'new' .. lifted
