"""How often somebody may ask: a script that Redis runs in one step."""

# Generic cell rate algorithm: one key holds the time at which the bucket is empty again. Returns
# the milliseconds to wait, 0 when the request may pass. Times are Redis's own. With a second key,
# -1 where that is gone: a token that was revoked a moment ago is found out in the same round trip.
RATE = """
if KEYS[2] and redis.call('EXISTS', KEYS[2]) == 0 then return -1 end
local t = redis.call('TIME') local now = t[1] * 1000 + t[2] / 1000
local step, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local tat = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
if tat - now > burst then return math.ceil(tat - now - burst) end
redis.call('SET', KEYS[1], string.format('%.3f', tat + step), 'PX', math.ceil(tat + step - now) + 1)
return 0
"""
