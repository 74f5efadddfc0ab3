-- Takes over what other consumers have left, without counting that as a delivery.
-- KEYS: stream, lease. ARGV: the lease's token or '', group, consumer, for how long it was left (ms), the id to begin at,
-- the most entries.
-- Answers {'lost'}, or {the id to go on from, ids, ids that were trimmed (since Redis 7)}.
if ARGV[1] ~= '' and redis.call('GET', KEYS[2]) ~= ARGV[1] then return {'lost'} end
return redis.call('XAUTOCLAIM', KEYS[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], 'COUNT', ARGV[6], 'JUSTID')
