-- What is known of some clients. KEYS: the hash of what was forgotten, then the clients' hashes. ARGV: the longest record that is wanted.
-- Returns for each hash ten texts: for w and then m milliseconds left (-1: for ever), age in milliseconds, record, how many milliseconds
-- ago it was accepted and from whom, and for how many milliseconds a lift stands; empty where there is none. A hash that is none, or holds what no node writes, is empty.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function text(number) return string.format('%.0f', number) end
local answers = {}
for i = 2, #KEYS do
  local kept = redis.pcall('HMGET', KEYS[i], 'w', 'ws', 'wr', 'wa', 'wg', 'm', 'ms', 'mr', 'ma', 'mg')
  local answer = {'', '', '', '', '', '', '', '', '', ''}
  if not kept.err then
    for at = 0, 5, 5 do
      local till, since, gone = tonumber(kept[at + 1] or ''), tonumber(kept[at + 2] or '') or 0, tonumber(kept[at + 5] or '')
      local record = kept[at + 3] or ''
      if till and (till == -1 or till > now) and record ~= '' and #record <= tonumber(ARGV[1]) then
        local author = string.match(record, '^{"node":"([a-z0-9.-]+)"')
        local kept_of = author and redis.pcall('HGET', KEYS[1], author)
        local forgotten = tonumber(type(kept_of) == 'string' and kept_of or '') or 0
        if forgotten == 0 or forgotten < since then
          answer[at + 1] = till == -1 and '-1' or text(till - now)
          answer[at + 2] = text(math.max(0, now - since))
          answer[at + 3] = record
          local accepted, speaker = string.match(kept[at + 4] or '', '^(%d+) ([a-z0-9.-]+)$')
          if speaker and #speaker <= 64 then answer[at + 4] = text(math.max(0, now - tonumber(accepted))) .. ' ' .. speaker end
        end
      end
      if gone then answer[at + 5] = text(math.max(0, now - gone)) end
    end
  end
  answers[#answers + 1] = answer
end
return answers
