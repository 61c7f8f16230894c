-- Loads users where the store has nothing newer.
--
-- KEYS  3 a user: profile, history, seen ids
-- ARGV  1 '1' to overwrite whatever is there, then 3 values a user in the order of the keys (empty = none)
-- Answers how many users were written.
--
-- A store whose newest event is later keeps its state (a missing profile is filled in); one whose newest
-- event is of the same time keeps its history and seen ids, which may hold late events, and takes the profile.
-- Times are compared in two halves: a Lua number is a double and loses whole numbers beyond 2^53.
-- One read and one write for all users: each call from Lua costs more than the work in it.

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

local sets, gone = {}, {}

local function put(key, value)
  if value == '' then
    gone[#gone + 1] = key
  else
    sets[#sets + 1] = key
    sets[#sets + 1] = value
  end
end

-- Plans the writes for the user whose keys begin at `at`; whether there are any.
local function load(at, kept_profile, kept_history)
  local profile, history, seen = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local order = compare_newest(kept_history, history)
  local takes_profile = profile ~= '' and profile ~= kept_profile and (order <= 0 or kept_profile == '')
  if takes_profile then
    put(KEYS[at], profile)
  end
  if order < 0 then
    put(KEYS[at + 1], history)
    put(KEYS[at + 2], seen)
    return true
  end
  if order == 0 and kept_history == '' and seen ~= '' and redis.call('EXISTS', KEYS[at + 2]) == 0 then
    put(KEYS[at + 2], seen)
    return true
  end
  return takes_profile
end

local written = 0
if ARGV[1] == '1' then
  for at = 1, #KEYS do
    put(KEYS[at], ARGV[at + 1])
  end
  written = #KEYS / 3
else
  local wanted = {}
  for at = 1, #KEYS, 3 do
    wanted[#wanted + 1] = KEYS[at]
    wanted[#wanted + 1] = KEYS[at + 1]
  end
  local kept = redis.call('MGET', unpack(wanted))
  for user = 0, #KEYS / 3 - 1 do
    if load(3 * user + 1, kept[2 * user + 1] or '', kept[2 * user + 2] or '') then
      written = written + 1
    end
  end
end
if #sets > 0 then
  redis.call('MSET', unpack(sets))
end
if #gone > 0 then
  redis.call('DEL', unpack(gone))
end
return written
