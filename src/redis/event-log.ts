import type { Result } from 'ioredis'
import { backlogAfter, defaultEventLogLimits, type EventLogLimits, erasedMark, numberEvents } from '../domain/event-log.ts'
import type { TenantId } from '../domain/ids.ts'
import type { AppendOutcome, Backlog, EventLog, RunRef, Unsubscribe } from '../domain/ports.ts'
import {
  type Cursor,
  formatCursor,
  isTerminal,
  type LoggedEvent,
  origin,
  parseCursor,
  type RunEvent,
} from '../domain/run-event.ts'
import { RedisChannels } from './channels.ts'
import { type RedisConnection, replyTo } from './connection.ts'
import { runKeys } from './key-space.ts'

declare module 'ioredis' {
  interface RedisCommander<Context> {
    appendEvents(
      stream: string,
      channel: string,
      epoch: number,
      firstSeq: number,
      maxEvents: number,
      ttl: number,
      ...events: string[]
    ): Result<[outcome: AppendOutcome['outcome'], last: string], Context>
    eraseEvents(stream: string, channel: string, epoch: number, seq: number, ttl: number, event: string): Result<number, Context>
  }
}

/**
 * An entry's id is its cursor, so the last entry says which epoch owns the run and where the log stands; trimming never
 * removes it. There is no second key that could expire or be evicted apart from the stream. The channel is not given as a key:
 * while a cluster moves a slot, it refuses what names one key that is there and one that is not.
 */
const appendScript = `
local channel, epoch, firstSeq, maxEvents, ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4], ARGV[5]
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
last = last and last[1] or '0-0'
local lastEpoch, lastSeq = string.match(last, '(%d+)-(%d+)')
lastEpoch, lastSeq = tonumber(lastEpoch), tonumber(lastSeq)

if epoch < lastEpoch then return {'fenced', last} end
local nextSeq = epoch == lastEpoch and lastSeq + 1 or 1
if firstSeq > nextSeq then return {'gap', last} end
local first = 6 + nextSeq - firstSeq
if first > #ARGV then return {'duplicate', last} end

for i = first, #ARGV do
  local id = string.format('%d-%d', epoch, firstSeq + i - 6)
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', maxEvents, id, 'event', ARGV[i])
end
redis.call('PEXPIRE', KEYS[1], ttl)
local events = table.concat(ARGV, ',', first, #ARGV)
redis.call('SPUBLISH', channel, string.format('{"epoch":%d,"firstSeq":%d,"events":[', epoch, nextSeq) .. events .. ']}')
return {'appended', last}
`

/** Leaves of a stream the one entry that is given, and tells followers. One that has it already is left as it is. */
const eraseScript = `
local channel, epoch, seq, ttl, event = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local id = epoch .. '-' .. seq
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if last and last[1] == id then return 0 end
redis.call('DEL', KEYS[1])
redis.call('XADD', KEYS[1], id, 'event', event)
redis.call('PEXPIRE', KEYS[1], ttl)
redis.call('SPUBLISH', channel, '{"epoch":' .. epoch .. ',"firstSeq":' .. seq .. ',"events":[' .. event .. ']}')
return 1
`

/**
 * The event log shared by all instances: per run a Redis Stream to replay and a sharded channel to follow,
 * written by one script. Every method throws Unavailable while Redis cannot be reached.
 */
export class RedisEventLog implements EventLog {
  readonly #connection: RedisConnection
  readonly #channels: RedisChannels<LoggedEvent[]>
  readonly #limits: EventLogLimits

  constructor(connection: RedisConnection, limits: EventLogLimits = defaultEventLogLimits) {
    connection.commands.defineCommand('appendEvents', { numberOfKeys: 1, lua: appendScript })
    connection.commands.defineCommand('eraseEvents', { numberOfKeys: 1, lua: eraseScript })
    this.#connection = connection
    this.#channels = new RedisChannels(connection, decodeAppend)
    this.#limits = limits
  }

  async append(run: RunRef, epoch: number, firstSeq: number, events: RunEvent[]): Promise<AppendOutcome> {
    const { stream, channel } = runKeys(run)
    const { maxEvents, liveTtl, endedTtl } = this.#limits
    const ttl = events.some(isTerminal) ? endedTtl : liveTtl
    const encoded = events.map((event) => JSON.stringify(event))
    const [outcome, last] = await replyTo(
      this.#connection.commands.appendEvents(stream, channel, epoch, firstSeq, maxEvents, ttl, ...encoded),
    )
    return outcome === 'appended' ? { outcome } : { outcome, last: cursorOf(last) }
  }

  async read(run: RunRef, after: Cursor | null): Promise<Backlog> {
    const from = after ?? origin
    const entries = await replyTo(this.#connection.commands.xrange(runKeys(run).stream, formatCursor(from), '+'))
    return backlogAfter(from, entries.map(decodeEntry))
  }

  async subscribe(run: RunRef, onEvents: (events: LoggedEvent[]) => void, onLost: () => void): Promise<Unsubscribe> {
    return this.#channels.subscribe(runKeys(run).channel, onEvents, onLost)
  }

  async count(tenantId: TenantId): Promise<number> {
    const mark = formatCursor(erasedMark.cursor)
    const held = new Set<string>()
    for await (const run of this.#runsOf(tenantId)) {
      const [last] = await replyTo(this.#connection.commands.xrevrange(runKeys(run).stream, '+', '-', 'COUNT', 1))
      if (last && last[0] !== mark) held.add(run.runId)
    }
    return held.size
  }

  async erase(tenantId: TenantId, openRuns: readonly string[]): Promise<void> {
    for (const runId of openRuns) await this.#eraseRun({ tenantId, runId })
    for await (const run of this.#runsOf(tenantId)) await this.#eraseRun(run)
  }

  async #eraseRun(run: RunRef): Promise<void> {
    const { stream, channel } = runKeys(run)
    const { epoch, seq } = erasedMark.cursor
    const event = JSON.stringify(erasedMark.event)
    await replyTo(this.#connection.commands.eraseEvents(stream, channel, epoch, seq, this.#limits.liveTtl, event))
  }

  /** The tenant's runs that there is a stream of. One may come more than once. */
  async *#runsOf(tenantId: TenantId): AsyncGenerator<RunRef, void, undefined> {
    const pattern = runKeys({ tenantId, runId: '*' }).stream
    const [before = '', after = ''] = pattern.split('*')
    for (const master of this.#connection.masters()) {
      let cursor = '0'
      do {
        const [next, streams] = await replyTo(master.scan(cursor, 'MATCH', pattern, 'COUNT', scanned))
        for (const stream of streams) yield { tenantId, runId: stream.slice(before.length, -after.length) }
        cursor = next
      } while (cursor !== '0')
    }
  }
}

/** Keys that one command looks at, whoever's they are: meanwhile all other commands wait. */
const scanned = 1_000

function cursorOf(id: string): Cursor {
  const cursor = parseCursor(id)
  if (!cursor) throw new Error(`A run's stream holds the foreign id ${id}.`)
  return cursor
}

function decodeEntry([id, [, event = 'null']]: [id: string, fields: string[]]): LoggedEvent {
  return { cursor: cursorOf(id), event: JSON.parse(event) }
}

function decodeAppend(payload: string): LoggedEvent[] {
  const { epoch, firstSeq, events } = JSON.parse(payload)
  return numberEvents(epoch, firstSeq, events)
}
