-- KEYS: stream, marks. ARGV: producer, the mark as it was seen ('' for none), the mark to set.
-- Answers 1, or 0 when the mark has changed since.
if (redis.call('HGET', KEYS[2], ARGV[1]) or '') ~= ARGV[2] then return 0 end
-- Marks of entries that this stream never had belong to one that is gone. Once it grows again they would look
-- right, and their producers would never send again what was lost.
local last = last_id(KEYS[1])
local all = redis.call('HGETALL', KEYS[2])
for i = 1, #all, 2 do
  if older(last, string.match(all[i + 1], '(%S+)$') or '0-0') then redis.call('HDEL', KEYS[2], all[i]) end
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
return 1
