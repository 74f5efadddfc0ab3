-- Acknowledges an entry, and writes its dead letters with that: both or none, and once.
-- KEYS: stream, dead letters. ARGV: group, entry id, about how many dead letters are kept, then error, deliveries and
-- plugin of each. Answers 1 where the entry waited for it.
-- A letter holds the first 100 fields of the entry, more than an event has: anybody may have written the entry, and a call
-- from Lua takes no more than some thousand arguments.
local items_max = 200
local stream, group, id = KEYS[1], ARGV[1], ARGV[2]
if #redis.call('XPENDING', stream, group, id, id, 1) == 0 then return 0 end
if #ARGV > 3 then
  local entry = redis.call('XRANGE', stream, id, id)[1]
  local items = entry and entry[2] or {}
  local note = #items > items_max and ' (the first ' .. items_max / 2 .. ' of ' .. #items / 2 .. ' fields are kept)' or ''
  for letter = 4, #ARGV, 3 do
    local fields = {}
    for i = 1, math.min(#items, items_max) do fields[i] = items[i] end
    for i, text in ipairs({'error', ARGV[letter] .. note, 'deliveries', ARGV[letter + 1], 'plugin', ARGV[letter + 2]}) do
      fields[#fields + 1] = text
    end
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', unpack(fields))
  end
end
return redis.call('XACK', stream, group, id)
