-- Removes the bans that began before the unban. KEYS: the client's hash. ARGV: services, time of the unban, for how many milliseconds an unban is
-- remembered if no ban is stored, node, channel, target, instance. The unban of a stored ban is remembered until that ban would have ended,
-- so that a node which was cut off cannot bring it back. The same unban sent again changes nothing.
-- A node's clock offset is wrong by a few milliseconds. Cutting `at` to `now` itself would make the same unban look newer when it is sent again;
-- one millisecond below TIE, a ban made in this very millisecond is still newer.
local at = math.min(now + TIE - 1, tonumber(ARGV[2]))
local unbanned = ''
for s in string.gmatch(ARGV[1], '%a') do
  local have, gone, memory = number(KEYS[1], s), number(KEYS[1], s .. 'g'), number(KEYS[1], s .. 'e')
  -- An unban from before the last one has nothing left to remove.
  if at > gone then
    local is_older = have ~= 0 and number(KEYS[1], s .. 's') <= at + TIE
    local remember = now + tonumber(ARGV[3])
    if is_older then
      if have == -1 or have > now then remember = have end
      redis.call('HDEL', KEYS[1], s, s .. 's', s .. 'r', s .. 'n', s .. 'a')
    end
    if memory == -1 or (remember ~= -1 and memory > remember) then remember = memory end
    redis.call('HSET', KEYS[1], s .. 'g', text(at), s .. 'e', text(remember))
    -- If a newer ban is stored, the nodes must keep it.
    if is_older or have == 0 then unbanned = unbanned .. s end
  end
end
expire(KEYS[1])
if unbanned ~= '' then redis.call('PUBLISH', ARGV[5], table.concat({'unban', ARGV[4], ARGV[7], unbanned, text(at), ARGV[6]}, ' ')) end
