-- Drops everything that a node has published so far: ban.lua and load.lua ignore it, load.lua deletes it. KEYS: the hash of forgotten nodes.
-- ARGV: the node, the channel, the time. The same sent again changes nothing.
local at = math.min(now, tonumber(ARGV[3]))
if at <= forgotten_at(KEYS[1], ARGV[1]) then return end
if type(redis.pcall('HSET', KEYS[1], ARGV[1], text(at))) ~= 'number' then
  -- Another client of Redis has put another type there.
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], ARGV[1], text(at))
end
redis.call('PUBLISH', ARGV[2], table.concat({'forget', ARGV[1], text(at)}, ' '))
