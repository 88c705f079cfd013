-- Reads for a node that joins. KEYS: the hash of forgotten nodes, then clients' hashes. ARGV: the length of the longest record, and of the
-- list of forgotten nodes. Without clients: the forgotten nodes, each followed by the time. Otherwise twelve texts for each client: for w and
-- then m the end, start, record, node and acceptance of the ban, and the time of the last unban; empty where there is none. What is of another
-- type or length than a node writes is left out, so that one such key cannot keep nodes from joining. Bans of forgotten nodes are deleted.
local answers = {}
if #KEYS == 1 then
  local fields = redis.pcall('HGETALL', KEYS[1])
  for i = 1, math.min(#fields, 2 * tonumber(ARGV[2])), 2 do
    if #fields[i] <= 64 and #fields[i + 1] <= 20 then
      answers[#answers + 1] = fields[i]
      answers[#answers + 1] = fields[i + 1]
    end
  end
  return answers
end
for i = 2, #KEYS do
  local answer = {}
  for _, s in ipairs({'w', 'm'}) do
    local field = redis.pcall('HMGET', KEYS[i], s, s .. 's', s .. 'r', s .. 'n', s .. 'a', s .. 'g')
    local till, since, record, node = tonumber(field[1] or ''), tonumber(field[2] or '') or 0, field[3] or '', field[4] or ''
    local is_active = till and (till == -1 or till > now) and #record <= tonumber(ARGV[1]) and #node <= 64
    if is_active and forgotten_at(KEYS[1], node) >= since then
      redis.call('HDEL', KEYS[i], s, s .. 's', s .. 'r', s .. 'n', s .. 'a')
      expire(KEYS[i])
      is_active = false
    end
    local unbanned = tonumber(field[6] or '')
    local ban = {'', '', '', '', ''}
    if is_active then ban = {text(till), text(since), record, node, text(tonumber(field[5] or '') or since)} end
    for _, value in ipairs(ban) do answer[#answer + 1] = value end
    answer[#answer + 1] = unbanned and text(unbanned) or ''
  end
  answers[#answers + 1] = answer
end
return answers
