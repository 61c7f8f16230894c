-- Records one event: dedupe, stream, history and seen ids, all or nothing.
--
-- KEYS  1 dedupe mark, 2 stream, 3 history, 4 seen ids
-- ARGV  1 life of the mark in ms, 2 bound of the stream, 3 bound of the history (records),
--       4 bound of the seen ids, 5 record (17 bytes; empty for an impression),
--       6… fields and values of the stream entry
-- Answers 1 when the event is new, 0 when it was recorded before.
--
-- Ids and times stay packed: a Lua number is a double and loses whole numbers beyond 2^53.
-- All reads come before the first write, so that a value of a foreign kind leaves nothing half done.
-- Histories and seen sets outgrow their bound by an eighth before they are cut: cutting at each
-- event would write the whole value to the append-only file each time. Readers take the newest.

local RECORD = 17
local ID = 8

-- Time of the record at byte `at`: high half signed, low half unsigned.
local function time_of(records, at)
  local low, high = struct.unpack('<I4i4', records, at + ID)
  return high, low
end

local function is_later(records, at, high, low)
  local other_high, other_low = time_of(records, at)
  return other_high > high or (other_high == high and other_low > low)
end

-- Where the record belongs, after all that are not later (bytes from 0), and what follows it there.
local function place_in_history(key, record)
  local high, low = time_of(record, 1)
  local newest = redis.call('GETRANGE', key, -RECORD, -1)
  if newest == '' or not is_later(newest, 1, high, low) then
    return redis.call('STRLEN', key), ''
  end
  local records = redis.call('GET', key)
  local first, last = 0, #records / RECORD
  while first < last do
    local middle = math.floor((first + last) / 2)
    if is_later(records, middle * RECORD + 1, high, low) then
      last = middle
    else
      first = middle + 1
    end
  end
  return first * RECORD, string.sub(records, first * RECORD + 1)
end

-- Where the id is among the seen (bytes from 0), or nil.
local function place_in_seen(seen, id)
  local at = string.find(seen, id, 1, true)
  while at and (at - 1) % ID ~= 0 do
    at = string.find(seen, id, at + 1, true)
  end
  return at and at - 1
end

local function cut(key, bound)
  if redis.call('STRLEN', key) > bound + bound / 8 then
    redis.call('SET', key, redis.call('GETRANGE', key, -bound, -1))
  end
end

if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end

local record = ARGV[5]
local id = string.sub(record, 1, ID)
local place, later, seen, known
if record ~= '' then
  place, later = place_in_history(KEYS[3], record)
  seen = redis.call('GET', KEYS[4]) or ''
  known = place_in_seen(seen, id)
end

redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', unpack(ARGV, 6))
redis.call('SET', KEYS[1], '1', 'PX', ARGV[1])
if record ~= '' then
  redis.call('SETRANGE', KEYS[3], place, record .. later)
  cut(KEYS[3], ARGV[3] * RECORD)
  if not known then
    redis.call('APPEND', KEYS[4], id)
    cut(KEYS[4], ARGV[4] * ID)
  elseif known < #seen - ID then
    redis.call('SETRANGE', KEYS[4], known, string.sub(seen, known + ID + 1) .. id)
  end
end
return 1
