-- KEYS: lease. ARGV: token, its milliseconds; 0 gives it back. Answers 2 where the token's owner has got it
-- now, 1 where it held it before, 0 where it does not.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return holder and 1 or 2
