-- Takes back that entries were delivered to a consumer, which has them still.
-- KEYS: stream, lease. ARGV: the lease's token or '', group, consumer, then the ids.
-- Answers 'lost' where somebody else holds the lease, else 'ok'.
if ARGV[1] ~= '' and redis.call('GET', KEYS[2]) ~= ARGV[1] then return 'lost' end
local stream, group, consumer = KEYS[1], ARGV[2], ARGV[3]
for i = 4, #ARGV do
  local id = ARGV[i]
  local pending = redis.call('XPENDING', stream, group, id, id, 1, consumer)[1]
  -- One that was trimmed away would be taken off by a claim, and not be told as lost.
  if pending and pending[4] > 0 and redis.call('XRANGE', stream, id, id)[1] then
    redis.call('XCLAIM', stream, group, consumer, 0, id, 'RETRYCOUNT', pending[4] - 1, 'JUSTID')
  end
end
return 'ok'
