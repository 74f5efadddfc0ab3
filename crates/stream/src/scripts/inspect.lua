-- KEYS: stream, marks. ARGV: producer. Answers {mark or '', 1 if the stream is older than the mark}.
local text = redis.call('HGET', KEYS[2], ARGV[1]) or ''
local entry_id = string.match(text, '(%S+)$') or '0-0'
return {text, older(last_id(KEYS[1]), entry_id) and 1 or 0}
