-- KEYS: stream. ARGV: the id to go backwards from, how many entries to look at.
-- Answers {the id to go on from or '', then entry_id, producer, seq, event_id of each entry that is an event}.
local entries = redis.call('XREVRANGE', KEYS[1], ARGV[1], '-', 'COUNT', ARGV[2])
local answer = {''}
if #entries == tonumber(ARGV[2]) then answer[1] = '(' .. entries[#entries][1] end
for _, entry in ipairs(entries) do
  local value = {}
  for i = 1, #entry[2], 2 do value[entry[2][i]] = entry[2][i + 1] end
  if value.producer and value.seq and value.event_id then
    for _, text in ipairs({entry[1], value.producer, value.seq, value.event_id}) do
      answer[#answer + 1] = text
    end
  end
end
return answer
