-- KEYS: stream, marks. ARGV: producer, the seq and event_id to append after, then the values of the entries,
-- `#fields` each. Answers {verdict, mark}; only `ok` has written anything.
local marks, producer = KEYS[2], ARGV[1]
local text = redis.call('HGET', marks, producer) or '0 - 0-0'
local seq, event_id, entry_id = string.match(text, '^(%d+) (%S+) (%S+)$')
if not seq then return {'conflict', text} end

if older(last_id(KEYS[1]), entry_id) then return {'stale', text} end
seq = tonumber(seq)
local after = tonumber(ARGV[2])
if seq < after then return {'gap', text} end
if seq == after and event_id ~= ARGV[3] then return {'conflict', text} end

-- A user that may add entries but not write marks would add them again and again: fail before the first.
redis.call('HSET', marks, producer, text)
local args = {}
for i = 1, #fields do args[2 * i - 1] = fields[i] end
for first = 4, #ARGV, #fields do
  local this = ARGV[first + seq_field - 1]
  if tonumber(this) > seq then
    for i = 1, #fields do args[2 * i] = ARGV[first + i - 1] end
    entry_id = redis.call('XADD', KEYS[1], '*', unpack(args))
    text = this .. ' ' .. ARGV[first + event_id_field - 1] .. ' ' .. entry_id
  end
end
redis.call('HSET', marks, producer, text)
return {'ok', text}
