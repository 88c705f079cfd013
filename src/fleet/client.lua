-- Placed in front of every script. All times are milliseconds of Redis's clock. A client's or network's hash has for each service s
-- (w: web, m: mail) these fields:
--   s   end of the ban, -1 if permanent    ss  its start            sn  the node that published it
--   sr  its record as JSON                 sa  when it was accepted
--   sg  when it was unbanned               se  until when that is remembered, -1 forever
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Nodes know their clock offset to a few milliseconds: of two events this close together the one that arrives later wins.
local TIE = 5

local function text(number) return string.format('%.0f', number) end

local function number(key, field) return tonumber(redis.call('HGET', key, field) or '') or 0 end

-- When everything that `node` had published was dropped, -1 if never. pcall, because another client of Redis may have put another type there,
-- and that must not fail the changes of all nodes.
local function forgotten_at(key, node)
  local at = redis.pcall('HGET', key, node)
  return tonumber(type(at) == 'string' and at or '') or -1
end

-- Makes the hash expire when the last ban or unban in it does.
local function expire(key)
  local last = 0
  for _, field in ipairs({'w', 'm', 'we', 'me'}) do
    local at = number(key, field)
    if at == -1 then return redis.call('PERSIST', key) end
    last = math.max(last, at)
  end
  redis.call('PEXPIREAT', key, last)
end
