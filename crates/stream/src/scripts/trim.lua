-- KEYS: stream. ARGV: max_len, hard cap, the most entries to remove, the most to read of the oldest and of the
-- newest.
-- Answers {entries removed, entries left, the group that holds the oldest back or '', 1 if it was cut off}.
local stream = KEYS[1]
local max_len, cap = tonumber(ARGV[1]), tonumber(ARGV[2])
local remove_max, head_max, tail_max = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local length = redis.call('XLEN', stream)
if length <= max_len then return {0, length, '', 0} end

local needed, holder
for _, reply in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local group = {}
  for i = 1, #reply, 2 do group[reply[i]] = reply[i + 1] end
  local first = redis.call('XPENDING', stream, group.name)[2]
  if not first then
    -- The next entry is asked for: the id after the last delivered one may not exist, being the highest of all.
    local delivered = group['last-delivered-id']
    local entries = redis.call('XRANGE', stream, delivered, '+', 'COUNT', 2)
    local next_entry = entries[1]
    if next_entry and next_entry[1] == delivered then next_entry = entries[2] end
    first = next_entry and next_entry[1]
  end
  if first and (not needed or older(first, needed)) then needed, holder = first, group.name end
end

local removed, cut = 0, 0
local target = math.max(max_len, length - remove_max)
if not needed then
  removed = redis.call('XTRIM', stream, 'MAXLEN', '=', target)
else
  tail_max = math.min(max_len, tail_max)
  local tail = redis.call('XRANGE', stream, needed, '+', 'COUNT', tail_max + 1)
  if #tail <= tail_max then
    removed = redis.call('XTRIM', stream, 'MAXLEN', '=', target)
    holder = ''
  else
    -- Where `max_len` entries begin is found by counting from the oldest.
    local head = redis.call('XRANGE', stream, '-', '(' .. needed, 'COUNT', math.min(length - max_len, head_max))
    if #head > 0 then
      removed = redis.call('XTRIM', stream, 'MAXLEN', '=', length - #head)
      holder = ''
    end
  end
end
length = length - removed
if length > cap then
  local over = redis.call('XTRIM', stream, 'MAXLEN', '=', math.max(cap, length - remove_max))
  removed, length, cut = removed + over, length - over, 1
end
return {removed, length, holder or '', cut}
