-- Lifts what a node said. KEYS: the hash of what was forgotten, then clients' hashes. ARGV: the node, the channel, and if it is said again,
-- when it was in milliseconds of the engine's clock. Without clients: notes when it was, and tells all nodes; returns 0 if that was known.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.pcall('HGET', KEYS[1], ARGV[1])
local forgotten = tonumber(type(known) == 'string' and known or '') or 0
if #KEYS == 1 then
  local again = tonumber(ARGV[3] or '')
  -- Said again it may have become some milliseconds younger.
  if again and forgotten + 1000 >= again then return 0 end
  local at = math.max(forgotten, math.min(now, again or now))
  if type(redis.pcall('HSET', KEYS[1], ARGV[1], at)) ~= 'number' then
    -- It is no hash: a stranger's.
    redis.call('DEL', KEYS[1])
    redis.call('HSET', KEYS[1], ARGV[1], at)
  end
  redis.call('PUBLISH', ARGV[2], 'forget ' .. ARGV[1] .. (again and string.format(' %.0f', now - at) or ''))
  return 1
end
local start = '{"node":"' .. ARGV[1] .. '",'
local lifted = 0
for i = 2, #KEYS do
  for _, s in ipairs({'w', 'm'}) do
    local kept = redis.pcall('HMGET', KEYS[i], s, s .. 's', s .. 'r')
    if not kept.err and kept[3] and string.sub(kept[3], 1, #start) == start then
      local since = tonumber(kept[2] or '') or 0
      if since <= forgotten then
        -- The hash goes on as long as the ban would have.
        redis.call('HDEL', KEYS[i], s, s .. 's', s .. 'r', s .. 'a')
        redis.call('HSET', KEYS[i], s .. 'g', forgotten, s .. 'e', tonumber(kept[1] or '') or now)
        lifted = lifted + 1
      end
    end
  end
end
return lifted
