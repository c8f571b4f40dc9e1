r"""The state machine as Lua: each script is one step that nobody can come between.

What is stored under the keys that `RedisStore` makes:

    tag    "<generation>[;<transaction>=<deadline in ms>]*"; with an intent it has no time to live, so that
           a server which evicts only what has one (volatile-*) keeps it
    entry  "<generation 1>|<generation 2>...\n<payload>"
    lease  "<token>"
    run    the run_id of the server that the tag `*` belongs to

Anything of another type, and anything malformed, counts as missing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha1
from typing import Final

__all__ = ["ABORT", "CONFIRM", "FILL", "HELLO", "INTEND", "LEASE", "RELEASE", "Script"]

_NOW: Final = """
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
"""

_TAGS: Final = """
-- Return a tag's generation and its live intents as text. Intents that are over count as commits.
local function split(value, token, at)
  if not string.find(value, ';', 1, true) then return value, '', false end
  local generation, intents, has_expired = string.match(value, '^[^;]*'), {}, false
  for name, deadline in string.gmatch(value, ';([^=;]*)=(%d+)') do
    if tonumber(deadline) > at then
      intents[#intents + 1] = ';' .. name .. '=' .. deadline
    else
      has_expired = true
    end
  end
  if has_expired then generation = token end
  return generation, table.concat(intents), has_expired
end

local function put(key, generation, intents, lifetime)
  if intents == '' and lifetime ~= '0' then
    redis.call('SET', key, generation, 'PX', lifetime)
  else
    redis.call('SET', key, generation .. intents)
  end
end

-- Return a tag as it is now; one that is missing appears, and the first, `*`, with a quarantine.
local function settle(key, value, is_everything, token, at, lifetime, quarantine)
  if is_everything then lifetime = '0' end
  if not value then
    local intents = ''
    if is_everything then intents = ';restart=' .. string.format('%.0f', at + quarantine) end
    put(key, token, intents, lifetime)
    return token, intents
  end
  local generation, intents, has_expired = split(value, token, at)
  if has_expired then put(key, generation, intents, lifetime) end
  return generation, intents
end
"""


@dataclass(frozen=True, slots=True)
class Script:
    """A script and the name that the server knows it by."""

    text: str
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", sha1(self.text.encode()).hexdigest())  # noqa: S324  Redis asks for it


HELLO: Final = Script(
    _NOW
    + """
-- KEYS run, everything   ARGV run_id, token, quarantine
local run = redis.call('MGET', KEYS[1])[1]
if run == ARGV[1] then return 'same' end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[2] .. ';restart=' .. string.format('%.0f', now() + ARGV[3]))
return run and 'restarted' or 'new'
"""
)

LEASE: Final = Script(
    _NOW
    + _TAGS
    + """
-- KEYS entry, lease, everything, tags...   ARGV token, lease lifetime, tag lifetime, quarantine
local values, at = redis.call('MGET', unpack(KEYS)), now()
local vector, obstacle = {}, false
for index = 3, #KEYS do
  local generation, intents = settle(KEYS[index], values[index], index == 3, ARGV[1], at, ARGV[3], ARGV[4])
  vector[#vector + 1] = generation
  if intents ~= '' and not obstacle then
    obstacle = 'intent'
    if index == 3 and string.find(intents, ';restart=', 1, true) then obstacle = 'restart' end
  end
end
if obstacle then return {'bypass', obstacle} end
local header = table.concat(vector, '|') .. '\\n'
if values[1] and string.sub(values[1], 1, #header) == header then
  return {'hit', string.sub(values[1], #header + 1)}
end
if values[2] then return {'busy'} end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
for index = 4, #KEYS do redis.call('PEXPIRE', KEYS[index], ARGV[3], 'GT') end
return {'miss', unpack(vector)}
"""
)

FILL: Final = Script(
    """
-- KEYS entry, lease, tags...   ARGV token, entry lifetime, vector, payload
local values = redis.call('MGET', unpack(KEYS, 2))
if values[1] == ARGV[1] then redis.call('DEL', KEYS[2]) end
for index = 2, #values do
  if not values[index] then return 0 end
end
if table.concat(values, '|', 2) ~= ARGV[3] then return 0 end
redis.call('SET', KEYS[1], ARGV[3] .. '\\n' .. ARGV[4], 'PX', ARGV[2])
return 1
"""
)

RELEASE: Final = Script(
    """
-- KEYS lease   ARGV token
if redis.call('MGET', KEYS[1])[1] == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 0
"""
)

INTEND: Final = Script(
    _NOW
    + _TAGS
    + """
-- KEYS everything, tags...   ARGV transaction, lifetime, tag lifetime, quarantine
local values, at = redis.call('MGET', unpack(KEYS)), now()
local everything = KEYS[1]
settle(everything, values[1], true, ARGV[1], at, ARGV[3], ARGV[4])
local deadline = string.format('%.0f', at + ARGV[2])
for index = 2, #KEYS do
  local key, value = KEYS[index], values[index]
  local is_everything = key == everything
  if is_everything then value = redis.call('MGET', key)[1] end  -- as it was settled above
  local generation, intents = settle(key, value, is_everything, ARGV[1], at, ARGV[3], ARGV[4])
  if intents ~= '' then intents = string.gsub(intents, ';' .. ARGV[1] .. '=%d+', '') end
  redis.call('SET', key, generation .. intents .. ';' .. ARGV[1] .. '=' .. deadline)
end
return 1
"""
)

_END: Final = (
    _NOW
    + _TAGS
    + """
-- KEYS everything, tags...   ARGV transaction, token, tag lifetime, quarantine
local at, found = now(), 0
for index = 2, #KEYS do
  local key, value = KEYS[index], redis.call('MGET', KEYS[index])[1]
  local is_everything = key == KEYS[1]
  local lifetime = is_everything and '0' or ARGV[3]
  local generation, intents = settle(key, value, is_everything, ARGV[2], at, ARGV[3], ARGV[4])
  local others, removed = string.gsub(intents, ';' .. ARGV[1] .. '=%d+', '')
  found = found + removed
  put(key, AFTERWARDS, others, lifetime)
end
return found
"""
)
CONFIRM: Final = Script(_END.replace("AFTERWARDS", "ARGV[2]"))
ABORT: Final = Script(_END.replace("AFTERWARDS", "generation"))
