-- Lifts what a node said. KEYS: the hash of what was forgotten, then clients' hashes. ARGV: the node, the channel. Without
-- clients: notes when it was, and tells all nodes.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if #KEYS == 1 then
  if type(redis.pcall('HSET', KEYS[1], ARGV[1], now)) ~= 'number' then
    -- It is no hash: a stranger's.
    redis.call('DEL', KEYS[1])
    redis.call('HSET', KEYS[1], ARGV[1], now)
  end
  redis.call('PUBLISH', ARGV[2], 'forget ' .. ARGV[1])
  return 0
end
local known = redis.pcall('HGET', KEYS[1], ARGV[1])
local forgotten = tonumber(type(known) == 'string' and known or '') or 0
local start = '{"node":"' .. ARGV[1] .. '",'
local lifted = 0
for i = 2, #KEYS do
  for _, s in ipairs({'w', 'm'}) do
    local kept = redis.pcall('HMGET', KEYS[i], s, s .. 's', s .. 'r')
    if not kept.err and kept[3] and string.sub(kept[3], 1, #start) == start then
      local since = tonumber(kept[2] or '') or 0
      if since <= forgotten then
        -- The hash goes on as long as the ban would have.
        redis.call('HDEL', KEYS[i], s, s .. 's', s .. 'r')
        redis.call('HSET', KEYS[i], s .. 'g', forgotten, s .. 'e', tonumber(kept[1] or '') or now)
        lifted = lifted + 1
      end
    end
  end
end
return lifted
