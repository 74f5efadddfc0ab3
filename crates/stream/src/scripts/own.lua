-- Gives a consumer what it got before, did not acknowledge and is not at, and counts that as a delivery.
-- KEYS: stream, lease. ARGV: the lease's token or '', group, consumer, the id to begin at, the most entries, the most
-- deliveries (an entry beyond those is answered alone), then the ids it is at.
-- Answers {'lost'}, or {'ok', the id to go on from or '', ids that were trimmed and are acknowledged now, entries of
-- {id, fields, deliveries}}.
if ARGV[1] ~= '' and redis.call('GET', KEYS[2]) ~= ARGV[1] then return {'lost'} end
local stream, group, consumer, count, most = KEYS[1], ARGV[2], ARGV[3], tonumber(ARGV[5]), tonumber(ARGV[6])
local is_at = {}
for i = 7, #ARGV do is_at[ARGV[i]] = true end
local trimmed, entries, next_id = {}, {}, ''
local page_max = 256
local page = redis.call('XPENDING', stream, group, ARGV[4], '+', page_max, consumer)
if #page == page_max then next_id = '(' .. page[page_max][1] end
for _, pending in ipairs(page) do
  local id, deliveries = pending[1], pending[4] + 1
  local entry = not is_at[id] and redis.call('XRANGE', stream, id, id)[1]
  if entry then
    if deliveries > most and #entries > 0 then
      next_id = id
      break
    end
    redis.call('XCLAIM', stream, group, consumer, 0, id, 'RETRYCOUNT', deliveries, 'JUSTID')
    entries[#entries + 1] = {id, entry[2], deliveries}
    if deliveries > most or #entries == count then
      next_id = '(' .. id
      break
    end
  elseif not is_at[id] then
    redis.call('XACK', stream, group, id)
    trimmed[#trimmed + 1] = id
  end
end
return {'ok', next_id, trimmed, entries}
