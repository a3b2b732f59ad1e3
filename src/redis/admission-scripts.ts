import { bucketSpan, leaseTtl, sharedAdmissionTtl, windowBuckets } from '../domain/admission.ts'

/**
 * All counters of a tenant are fields of one hash, so that they are there, move to another node, and expire together:
 *
 * - `terms`: what is counted against, as it was seeded; numbers in the order of the constants below.
 * - `counts`: the figures, likewise, then the buckets of the window, oldest first.
 * - `r:<run>`: `<due> <end of its lease> <when it was counted> <tokens set aside>`, then ` <call> <tokens> <end>` for each call. A call
 *   of no tokens is one that was in the ledger when the counts were read: its settlement is on its way, and is not to count it again.
 * - `i:<key>`: `<end> <calls> <run>`, an admission that equal calls share.
 * - `e:<second>`: `<due> <field>;` for each run and shared admission to look at then, since something of it may have ended. Each has
 *   one such entry. Whatever was renewed by then gets another, so that renewing costs nothing, and nothing is ever searched.
 *
 * The channel is not given as a key: a cluster that moves a slot refuses what names one key that is there and one that is not.
 *
 * The hash goes a day after its last change, so that a tenant that does nothing costs nothing: its day is over by then, and Postgres,
 * from which all of it can be rebuilt, is asked anyway.
 */
const idleTtl = 24 * 60 * 60_000

/**
 * Both are 64-bit floats, which are what Lua counts with, exact up to 2^53, and read and written in a tenth of the time that text takes.
 * In text numbers are written with %.0f, since Lua by itself rounds them to 14 digits.
 */
const countsLayout = `<${'d'.repeat(9 + windowBuckets)}`
const termsLayout = `<${'d'.repeat(12)}`

/** What each script begins with: the places of the figures, the arguments, and the time. */
const prelude = `
local VERSION, ENDS, PER_MINUTE, PER_DAY, PER_MESSAGE, SESSIONS_MAX, BUDGET = 1, 2, 3, 4, 5, 6, 7
local DAY_START, DAY_END, MONTH_START, MONTH_END = 8, 9, 10, 11
local MARK, SURE, NEXT_MONTH, TODAY, SPENT, RESERVED, SESSIONS, NEXT_DUE, BUCKET = 1, 2, 3, 4, 5, 6, 7, 8, 9
local OLDEST, NEWEST = 10, ${9 + windowBuckets}
local floor, min, max, format, match, gmatch = math.floor, math.min, math.max, string.format, string.match, string.gmatch

local key, channel, now = KEYS[1], ARGV[1], tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + floor(time[2] / 1000)
end
`

/** Goes on to the bucket of now; `isLater` says whether it is another one than before. */
const turn = `
local bucket = floor(now / ${bucketSpan})
local passed = bucket - counts[BUCKET]
if passed > 0 then
  for i = OLDEST, NEWEST do counts[i] = i + passed <= NEWEST and counts[i + passed] or 0 end
  counts[BUCKET], isLater = bucket, true
end
`

/** Counts a message, or leaves with what `refused` answers. */
const count = (refused: string) => `
local minute = 0
for i = OLDEST, NEWEST do minute = minute + counts[i] end
if content > terms[PER_MESSAGE] or counts[SPENT] + counts[RESERVED] + reserve > terms[BUDGET] or counts[TODAY] >= terms[PER_DAY]
  or minute >= terms[PER_MINUTE] or counts[SESSIONS] >= terms[SESSIONS_MAX] then
  ${refused}
end
counts[NEWEST] = counts[NEWEST] + 1
counts[TODAY] = counts[TODAY] + 1
counts[SESSIONS] = counts[SESSIONS] + 1
counts[RESERVED] = counts[RESERVED] + reserve
`

const common = `
local terms, counts, isNew, isChanged, isLater
local fields, written, entered = {}, {}, {}

local function load(names)
  for i, text in ipairs(redis.call('HMGET', key, unpack(names))) do fields[names[i]] = text end
end

local function get(name)
  if fields[name] == nil then fields[name] = redis.call('HGET', key, name) end
  return fields[name]
end

local function put(name, text)
  fields[name], written[name], isChanged = text, true, true
end

local function secondOf(time)
  return 'e:' .. floor(time / 1000)
end

local function enter(name, due)
  local second = secondOf(due)
  entered[second] = entered[second] or {}
  table.insert(entered[second], format('%.0f %s;', due, name))
  counts[NEXT_DUE] = min(counts[NEXT_DUE], due)
end

local function runOf(name)
  local text = get(name)
  if not text then return nil end
  local due, lease, admitted, reserve, rest = match(text, '^(%d+) (%d+) (%d+) (%d+)(.*)$')
  local run = {due = tonumber(due), lease = tonumber(lease), admitted = tonumber(admitted), reserve = tonumber(reserve), calls = {}}
  for id, tokens, ends in gmatch(rest, ' (%S+) (%d+) (%d+)') do
    run.calls[id] = {tokens = tonumber(tokens), ends = tonumber(ends)}
  end
  return run
end

local function newRun()
  return {due = 0, lease = 0, admitted = 0, reserve = 0, calls = {}}
end

local function keep(name, run)
  if run.lease == 0 and not next(run.calls) then return put(name, false) end
  if run.due == 0 then
    run.due = now + ${leaseTtl}
    enter(name, run.due)
  end
  local text = format('%.0f %.0f %.0f %.0f', run.due, run.lease, run.admitted, run.reserve)
  for id, call in pairs(run.calls) do text = text .. format(' %s %.0f %.0f', id, call.tokens, call.ends) end
  put(name, text)
end

local function dropReserve(run)
  counts[RESERVED] = counts[RESERVED] - run.reserve
  run.reserve = 0
end

local function dropLease(run)
  if run.lease > 0 then counts[SESSIONS] = counts[SESSIONS] - 1 end
  run.lease = 0
  dropReserve(run)
end

local function dropCall(run, id)
  local tokens = run.calls[id].tokens
  counts[RESERVED] = counts[RESERVED] - tokens
  run.calls[id] = nil
  return tokens > 0
end

local function endRun(name, run)
  if run.lease > 0 and run.lease <= now then dropLease(run) end
  local due = run.lease > 0 and run.lease or math.huge
  for id, call in pairs(run.calls) do
    if call.ends <= now then
      -- It may have been made.
      if dropCall(run, id) then counts[SURE] = 0 end
    else
      due = min(due, call.ends)
    end
  end
  if due < math.huge then
    run.due = due
    enter(name, due)
  end
  keep(name, run)
end

local function endWhatIsDue()
  local seconds = {}
  local first = floor(counts[NEXT_DUE] / 1000)
  -- Nothing ends later than that after whatever was next when it was entered.
  for second = first, min(floor(now / 1000), first + ${sharedAdmissionTtl / 1_000 + 1}) do seconds[#seconds + 1] = 'e:' .. second end
  load(seconds)
  counts[NEXT_DUE] = (floor(now / 1000) + 1) * 1000
  isChanged = true
  local names, dues = {}, {}
  for _, second in ipairs(seconds) do
    if fields[second] then
      local later = {}
      for due, name in gmatch(fields[second], '(%d+) (%S+);') do
        if tonumber(due) > now then
          later[#later + 1] = due .. ' ' .. name .. ';'
          counts[NEXT_DUE] = min(counts[NEXT_DUE], tonumber(due))
        else
          names[#names + 1], dues[#dues + 1] = name, tonumber(due)
        end
      end
      put(second, #later > 0 and table.concat(later))
    end
  end
  for i, name in ipairs(names) do
    local text = get(name)
    -- An entry may be of one that went and came again.
    if text and tonumber(match(text, '^%d+')) == dues[i] then
      if name:sub(1, 2) == 'i:' then put(name, false) else endRun(name, runOf(name)) end
    end
  end
end

-- Reads these fields besides the counters, and brings the counters to this moment.
local function open(names)
  names[#names + 1], names[#names + 2] = 'terms', 'counts'
  load(names)
  terms = fields.terms and {struct.unpack('${termsLayout}', fields.terms)}
  if fields.counts then
    counts = {struct.unpack('${countsLayout}', fields.counts)}
  else
    -- A mark of counters that were lost is never handed out again.
    local time = redis.call('TIME')
    counts = {time[1] * 1000000 + time[2], 0, 0, 0, 0, 0, 0, 2^53, 0}
    isNew, isChanged = true, true
  end
  ${turn}
  if counts[NEXT_DUE] <= now then endWhatIsDue() end
end

-- What has to be seeded before anything can be decided under terms of this version.
local function lacking(version)
  if counts[SURE] == 0 or not terms then return 'counts' end
  return (terms[VERSION] < version or now >= terms[ENDS]) and 'terms'
end

local function call(command, list)
  for i = 1, #list, 2000 do redis.call(command, key, unpack(list, i, min(i + 1999, #list))) end
end

-- Writes what was changed, and answers with the figures.
local function finish(outcome, detail)
  local text = struct.pack('${countsLayout}', unpack(counts, 1, NEWEST))
  for second, entries in pairs(entered) do put(second, (get(second) or '') .. table.concat(entries)) end
  if isChanged then
    local kept, gone = {'counts', text}, {}
    for name in pairs(written) do
      if fields[name] then kept[#kept + 1], kept[#kept + 2] = name, fields[name] else gone[#gone + 1] = name end
    end
    call('HSET', kept)
    call('HDEL', gone)
    -- Often enough.
    if isLater then redis.call('PEXPIRE', key, ${idleTtl}) end
  end
  return {outcome, now, text, fields.terms, detail}
end

local function tell()
  redis.call('SPUBLISH', channel, '')
end
`

/**
 * Almost every admission is of a new message, to counters that are sure, when nothing has to end: that is decided here, with no function
 * made and each field written once. Whatever is not so falls through to what follows.
 */
const admitUsual = `
local version, content, reserve, name, share = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6], ARGV[7]
repeat
  if share == '' then break end
  local leaseEnds, shareEnds = now + ${leaseTtl}, now + ${sharedAdmissionTtl}
  local leaseEntry, shareEntry = 'e:' .. floor(leaseEnds / 1000), 'e:' .. floor(shareEnds / 1000)
  local found = redis.call('HMGET', key, 'terms', 'counts', name, share, leaseEntry, shareEntry)
  if not found[1] or not found[2] or found[3] or found[4] then break end
  local terms, counts, isLater = {struct.unpack('${termsLayout}', found[1])}, {struct.unpack('${countsLayout}', found[2])}, false
  if counts[SURE] == 0 or terms[VERSION] < version or now >= terms[ENDS] or counts[NEXT_DUE] <= now then break end
  ${turn}
  ${count('break')}
  counts[NEXT_DUE] = min(counts[NEXT_DUE], leaseEnds)
  local text, id = struct.pack('${countsLayout}', unpack(counts, 1, NEWEST)), name:sub(3)
  redis.call('HSET', key, 'counts', text,
    name, format('%.0f %.0f %.0f %.0f', leaseEnds, leaseEnds, now, reserve),
    share, format('%.0f 1 %s', shareEnds, id),
    leaseEntry, format('%s%.0f %s;', found[5] or '', leaseEnds, name),
    shareEntry, format('%s%.0f %s;', found[6] or '', shareEnds, share))
  if isLater then redis.call('PEXPIRE', key, ${idleTtl}) end
  redis.call('SPUBLISH', channel, '')
  do return {'admitted', now, text, found[1], id} end
until true
`

const admit = `
open({name, share, secondOf(now + ${leaseTtl}), secondOf(now + ${sharedAdmissionTtl})})
local need = lacking(version)
if need then return finish(need) end
if fields[share] then
  local ends, calls, shared = match(fields[share], '^(%d+) (%d+) (%S+)$')
  put(share, format('%s %.0f %s', ends, calls + 1, shared))
  return finish('repeated', shared)
end
local run = runOf(name) or newRun()
if run.lease > 0 then return finish('repeated', name:sub(3)) end
${count("return finish('refused')")}
run.lease, run.admitted, run.reserve = now + ${leaseTtl}, now, reserve
keep(name, run)
if share ~= '' then
  local ends = now + ${sharedAdmissionTtl}
  put(share, format('%.0f 1 %s', ends, name:sub(3)))
  enter(share, ends)
end
tell()
return finish('admitted', name:sub(3))
`

const seed = `
local mark, given, withCounts = tonumber(ARGV[3]), {struct.unpack('${termsLayout}', ARGV[4])}, ARGV[5] == '1'
open({})
if withCounts and mark ~= counts[MARK] then return finish('outdated') end
if now >= given[ENDS] or (terms and given[VERSION] < terms[VERSION]) then return finish('outdated') end
if terms then
  if given[MONTH_START] >= terms[MONTH_END] then
    if counts[NEXT_MONTH] == 1 then counts[SURE] = 0 end
    counts[SPENT], counts[NEXT_MONTH] = 0, 0
  elseif given[MONTH_START] ~= terms[MONTH_START] or given[MONTH_END] ~= terms[MONTH_END] then
    counts[SURE] = 0
  end
  if given[DAY_START] ~= terms[DAY_START] or given[DAY_END] ~= terms[DAY_END] then
    counts[TODAY] = 0
    if given[DAY_START] < terms[DAY_END] then counts[SURE] = 0 end
  end
end
terms = given
put('terms', ARGV[4])
tell()
if not withCounts then return finish('seeded') end

counts[MARK] = counts[MARK] + 1
counts[SURE] = 1
-- Counters that are only in doubt know of messages whose transactions Postgres had not seen the end of.
counts[TODAY] = max(counts[TODAY], tonumber(ARGV[6]))
counts[SPENT] = tonumber(ARGV[7])
local at = 9
local window, recent, known = {}, 0, 0
for i = OLDEST, NEWEST do
  window[i] = 0
  known = known + counts[i]
end
for _ = 1, tonumber(ARGV[8]) do
  local i = NEWEST - max(0, counts[BUCKET] - tonumber(ARGV[at]))
  if i >= OLDEST then
    window[i] = window[i] + tonumber(ARGV[at + 1])
    recent = recent + tonumber(ARGV[at + 1])
  end
  at = at + 2
end
if recent > known then
  for i = OLDEST, NEWEST do counts[i] = window[i] end
end

local runs, unfinished = {}, {}
for _ = 1, tonumber(ARGV[at]) do
  local name, id, tokens = ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3])
  unfinished[name] = unfinished[name] or {}
  unfinished[name][id] = tokens
  runs[name] = newRun()
  at = at + 3
end
for i = at + 1, #ARGV do runs[ARGV[i]] = newRun() end
local all = redis.call('HGETALL', key)
for i = 1, #all, 2 do
  local name = all[i]
  if fields[name] == nil then fields[name] = all[i + 1] end
  if name:sub(1, 2) == 'r:' then runs[name] = runOf(name) or runs[name] end
end
for name, run in pairs(runs) do
  local calls = unfinished[name] or {}
  for id, call in pairs(run.calls) do
    if not calls[id] then
      counts[RESERVED] = counts[RESERVED] - call.tokens
      call.tokens = 0
    end
  end
  for id, tokens in pairs(calls) do
    if not run.calls[id] then
      run.calls[id] = {tokens = tokens, ends = now + ${leaseTtl}}
      counts[RESERVED] = counts[RESERVED] + tokens
    end
  end
end
for i = at + 1, #ARGV do
  local run = runs[ARGV[i]]
  if run.lease == 0 then
    run.lease = now + ${leaseTtl}
    counts[SESSIONS] = counts[SESSIONS] + 1
  end
end
for name, run in pairs(runs) do keep(name, run) end
return finish('seeded')
`

const release = `
local name, share = ARGV[3], ARGV[4]
open({name, share})
if isNew then return end
if share ~= '' then
  local ends, calls, shared = match(fields[share] or '', '^(%d+) (%d+) (%S+)$')
  if shared ~= name:sub(3) then return finish('kept') end
  put(share, tonumber(calls) > 1 and format('%s %.0f %s', ends, calls - 1, shared))
  if fields[share] then return finish('kept') end
end
local run = runOf(name)
if not run or run.admitted == 0 or next(run.calls) then return finish('kept') end
local i = NEWEST - max(0, counts[BUCKET] - floor(run.admitted / ${bucketSpan}))
if i >= OLDEST then counts[i] = max(0, counts[i] - 1) end
if terms and run.admitted >= terms[DAY_START] then counts[TODAY] = max(0, counts[TODAY] - 1) end
dropLease(run)
keep(name, run)
tell()
return finish('released')
`

const hold = `
local version, name, id, tokens, least = tonumber(ARGV[3]), ARGV[4], ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
open({name})
local need = lacking(version)
if need then return finish(need) end
local run = runOf(name) or newRun()
local held = run.calls[id] and run.calls[id].tokens or 0
local others = counts[RESERVED] - held - run.reserve
local granted = max(held, min(tokens, terms[BUDGET] - counts[SPENT] - others))
if granted < least then return finish('exhausted') end
if run.lease == 0 then
  if counts[SESSIONS] >= terms[SESSIONS_MAX] then return finish('full') end
  counts[SESSIONS] = counts[SESSIONS] + 1
end
dropReserve(run)
counts[RESERVED] = counts[RESERVED] - held + granted
run.lease = now + ${leaseTtl}
run.calls[id] = {tokens = granted, ends = run.lease}
keep(name, run)
tell()
return finish('held', granted)
`

const settle = `
local name, leave = ARGV[3], tonumber(ARGV[4])
open({name})
-- Nobody has a mark of counters that are not there.
if isNew then return {'counts'} end
counts[MARK], isChanged = counts[MARK] + 1, true
local run = runOf(name) or newRun()
for i = 5, #ARGV, 4 do
  local id, tokens, at, isOurs = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), ARGV[i + 3] == '1'
  local isKnown = run.calls[id]
  local isHeld = isKnown and dropCall(run, id)
  if tokens > 0 and terms and at >= terms[MONTH_END] then
    counts[NEXT_MONTH] = 1
  elseif tokens > 0 and terms and at >= terms[MONTH_START] then
    if isHeld and isOurs then
      counts[SPENT] = counts[SPENT] + tokens
    elseif isHeld or not isKnown then
      -- Whether it was counted is not known here.
      counts[SURE] = 0
    end
  end
end
if leave > 0 then
  local isTaken = false
  for id, call in pairs(run.calls) do
    if tonumber(match(id, '%d+$')) > leave then
      isTaken = isTaken or call.tokens > 0
    elseif dropCall(run, id) then
      -- What became of it is not known here.
      counts[SURE] = 0
    end
  end
  if not isTaken then dropLease(run) end
end
keep(name, run)
tell()
return finish(lacking(0) or 'read')
`

const doubt = `
open({})
-- Nobody has a mark of counters that are not there.
if isNew then return end
counts[MARK], counts[SURE], isChanged = counts[MARK] + 1, 0, true
tell()
return finish('doubted')
`

const renew = `
local names = {}
for i = 3, #ARGV, 2 do names[#names + 1] = ARGV[i] end
open(names)
if isNew then return end
for i = 3, #ARGV, 2 do
  local run = runOf(ARGV[i])
  if run then
    if run.lease > 0 then run.lease = now + ${leaseTtl} end
    local held = run.calls[ARGV[i + 1]]
    if held then held.ends = now + ${leaseTtl} end
    keep(ARGV[i], run)
  end
end
return finish('renewed')
`

const read = `
open({})
return finish(lacking(tonumber(ARGV[3])) or 'read')
`

const scripts = {
  admit: admitUsual + common + admit,
  seed: common + seed,
  release: common + release,
  hold: common + hold,
  settle: common + settle,
  doubt: common + doubt,
  renew: common + renew,
  read: common + read,
}

/**
 * Each is given the tenant's hash as its key, and then the channel and the time, empty for that of Redis. Each decides and writes all
 * or nothing, in one round trip, and the same as src/memory/tenant-counters.ts does.
 */
export const admissionScripts = Object.fromEntries(
  Object.entries(scripts).map(([name, body]) => [`quota${name.charAt(0).toUpperCase()}${name.slice(1)}`, prelude + body]),
)
