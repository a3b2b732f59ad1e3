import type { Result } from 'ioredis'

type Keys = [held: string, waiting: string, alive: string, turns: string]

declare module 'ioredis' {
  interface RedisCommander<Context> {
    enterSlots(
      ...args: [...Keys, cap: number, lease: number, channel: string, tenantId: string, weight: number, id: string]
    ): Result<[member: string, granted: 0 | 1], Context>
    leaveSlots(...args: [...Keys, cap: number, lease: number, channel: string, member: string]): Result<number, Context>
    /** The first `held` of the members have a slot, the others wait for one. Answers which of these have one by now. */
    tendSlots(
      ...args: [...Keys, cap: number, lease: number, channel: string, held: number, ...members: string[]]
    ): Result<string[], Context>
  }
}

/**
 * A pool of slots: those that are held and those who wait, each by its lease, and in `turns` when each tenant was granted its last.
 * Members are `<tenant>:<number>:<weight>:<id>`, where numbers count up: in the order of names, those who wait for one tenant are
 * beside each other, the first first, and one look-up finds the next tenant.
 *
 * `grant` gives what is free to the tenant that holds the fewest for its weight; among equals to the one whose last turn was the
 * longest ago, or who came first.
 */
const common = `
local held, waiting, alive, turns = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local cap, lease, channel = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function parts(member) return string.match(member, '^([^:]+):(%d+):(%d+):(.+)$') end

redis.call('ZREMRANGEBYSCORE', held, '-inf', now)
for _, member in ipairs(redis.call('ZRANGEBYSCORE', alive, '-inf', now)) do
  redis.call('ZREM', alive, member)
  redis.call('ZREM', waiting, member)
end

local function heldByTenant()
  local counts = {}
  for _, member in ipairs(redis.call('ZRANGE', held, 0, -1)) do
    local tenant = parts(member)
    counts[tenant] = (counts[tenant] or 0) + 1
  end
  return counts
end

local function nextWaiting(counts)
  local best, bestTenant, bestHeld, bestWeight, bestTurn, bestNumber
  local from = '-'
  while true do
    local member = redis.call('ZRANGEBYLEX', waiting, from, '+', 'LIMIT', 0, 1)[1]
    if not member then return best, bestTenant end
    local tenant, number, weight = parts(member)
    local has, turn = counts[tenant] or 0, tonumber(redis.call('HGET', turns, tenant) or 0)
    local difference = best and has * bestWeight - bestHeld * weight or -1
    if difference == 0 then difference = turn - bestTurn end
    if difference == 0 and number < bestNumber then difference = -1 end
    if difference < 0 then
      best, bestTenant, bestHeld, bestWeight, bestTurn, bestNumber = member, tenant, has, weight, turn, number
    end
    from = '(' .. tenant .. ':~'
  end
end

local function grant()
  local ids = {}
  local free = cap - redis.call('ZCARD', held)
  if free > 0 and redis.call('EXISTS', waiting) == 1 then
    local counts = heldByTenant()
    while free > 0 do
      local member, tenant = nextWaiting(counts)
      if not member then break end
      redis.call('ZREM', waiting, member)
      redis.call('ZREM', alive, member)
      redis.call('ZADD', held, now + lease, member)
      redis.call('HSET', turns, tenant, redis.call('HINCRBY', turns, '#', 1))
      counts[tenant] = (counts[tenant] or 0) + 1
      local _, _, _, id = parts(member)
      ids[#ids + 1] = id
      free = free - 1
    end
  end
  if #ids > 0 then redis.call('SPUBLISH', channel, table.concat(ids, ' ')) end
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, 2 * lease) end
end
`

export const enterScript = `${common}
local tenant, weight, id = ARGV[4], ARGV[5], ARGV[6]
local member = string.format('%s:%016d:%s:%s', tenant, redis.call('HINCRBY', turns, '#', 1), weight, id)
redis.call('ZADD', waiting, 0, member)
redis.call('ZADD', alive, now + lease, member)
grant()
return {member, redis.call('ZSCORE', held, member) and 1 or 0}
`

/** A tenant that neither holds nor waits has had no turn. */
export const leaveScript = `${common}
local member = ARGV[4]
local tenant = parts(member)
for _, key in ipairs({held, waiting, alive}) do redis.call('ZREM', key, member) end
local others = redis.call('ZRANGEBYLEX', waiting, '[' .. tenant .. ':', '(' .. tenant .. ':~', 'LIMIT', 0, 1)
if #others == 0 and not heldByTenant()[tenant] then redis.call('HDEL', turns, tenant) end
grant()
return 0
`

/** What is held is counted again when it was lost, also beyond the cap: it is being used. */
export const tendScript = `${common}
local heldHere = tonumber(ARGV[4])
for index = 5, #ARGV do
  local member = ARGV[index]
  if index < 5 + heldHere then
    redis.call('ZADD', held, now + lease, member)
  elseif not redis.call('ZSCORE', held, member) then
    redis.call('ZADD', waiting, 0, member)
    redis.call('ZADD', alive, now + lease, member)
  end
end
grant()
local granted = {}
for index = 5 + heldHere, #ARGV do
  if redis.call('ZSCORE', held, ARGV[index]) then granted[#granted + 1] = ARGV[index] end
end
return granted
`
