-- Claims the stream for whoever takes events away from it, or gives the claim up.
--
-- KEYS  1 claim, 2 name of the stream, 3 number of the newest event taken away
-- ARGV  1 holder, 2 life of the claim in ms (0 gives it up), 3 name for a stream that has none
-- Answers the holder, the stream's name and that number; another holder's claim stays.

local holder = redis.call('GET', KEYS[1])
if not holder or holder == ARGV[1] then
  holder = ARGV[1]
  if ARGV[2] == '0' then
    redis.call('DEL', KEYS[1])
  else
    redis.call('SET', KEYS[1], holder, 'PX', ARGV[2])
  end
end
redis.call('SET', KEYS[2], ARGV[3], 'NX')
return {holder, redis.call('GET', KEYS[2]), redis.call('GET', KEYS[3]) or '0'}
