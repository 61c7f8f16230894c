-- Loads users where the store has nothing newer.
--
-- KEYS  3 a user: profile, history, seen ids
-- ARGV  1 '1' to overwrite whatever is there, then 3 values a user in the order of the keys (empty = none)
-- Answers how many users were changed.
--
-- A store whose newest event is later keeps its state (a missing profile is filled in); one whose newest
-- event is of the same time keeps its history and seen ids, which may hold late events, and takes the profile.
-- Times are compared in two halves: a Lua number is a double and loses whole numbers beyond 2^53.

local RECORD = 17

-- 1, 0 or -1: the newest event of history a is later than, as late as, earlier than that of b.
local function compare_newest(a, b)
  if a == '' or b == '' then
    return (a == '' and 0 or 1) - (b == '' and 0 or 1)
  end
  local low_a, high_a = struct.unpack('<I4i4', a, #a - RECORD + 9)
  local low_b, high_b = struct.unpack('<I4i4', b, #b - RECORD + 9)
  if high_a ~= high_b then
    return high_a > high_b and 1 or -1
  end
  if low_a ~= low_b then
    return low_a > low_b and 1 or -1
  end
  return 0
end

local function put(key, value)
  if value == '' then
    return redis.call('DEL', key) == 1
  end
  if redis.call('GET', key) == value then
    return false
  end
  redis.call('SET', key, value)
  return true
end

local function fill(key, value)
  return value ~= '' and redis.call('SET', key, value, 'NX') and true
end

local function load(profile_key, history_key, seen_key, profile, history, seen)
  if ARGV[1] == '1' then
    local changed = put(profile_key, profile)
    changed = put(history_key, history) or changed
    return put(seen_key, seen) or changed
  end
  local order = compare_newest(redis.call('GETRANGE', history_key, -RECORD, -1), history)
  if order > 0 then
    return fill(profile_key, profile)
  end
  local changed = profile ~= '' and put(profile_key, profile)
  if order < 0 then
    redis.call('SET', history_key, history)
    put(seen_key, seen)
    return true
  end
  return fill(seen_key, seen) or changed
end

local written = 0
for at = 1, #KEYS, 3 do
  if load(KEYS[at], KEYS[at + 1], KEYS[at + 2], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]) then
    written = written + 1
  end
end
return written
