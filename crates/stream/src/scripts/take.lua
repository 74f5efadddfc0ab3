-- Gives a consumer of a group what no consumer of it got.
-- KEYS: stream, lease. ARGV: the lease's token or '', group, consumer, the most entries.
-- Answers {'lost'} where somebody else holds the lease, else {'ok', the stream's last id, entries of {id, fields}}.
if ARGV[1] ~= '' and redis.call('GET', KEYS[2]) ~= ARGV[1] then return {'lost'} end
local reply = redis.call('XREADGROUP', 'GROUP', ARGV[2], ARGV[3], 'COUNT', ARGV[4], 'STREAMS', KEYS[1], '>')
return {'ok', last_id(KEYS[1]), reply and reply[1] and reply[1][2] or {}}
