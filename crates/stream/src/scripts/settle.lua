-- Acknowledges an entry, and writes its dead letters with that: both or none, and once.
-- KEYS: stream, dead letters. ARGV: group, entry id, about how many dead letters are kept, then error, deliveries and
-- plugin of each. Answers 1 where the entry waited for it.
local stream, group, id = KEYS[1], ARGV[1], ARGV[2]
if #redis.call('XPENDING', stream, group, id, id, 1) == 0 then return 0 end
if #ARGV > 3 then
  local entry = redis.call('XRANGE', stream, id, id)[1]
  for letter = 4, #ARGV, 3 do
    local fields = {}
    for i, text in ipairs(entry and entry[2] or {}) do fields[i] = text end
    for i, name in ipairs({'error', 'deliveries', 'plugin'}) do
      fields[#fields + 1] = name
      fields[#fields + 1] = ARGV[letter + i - 1]
    end
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', unpack(fields))
  end
end
return redis.call('XACK', stream, group, id)
