import { newId } from '../domain/ids.ts'
import { boundedModels, type ModelConcurrency, type SlotPoolName, slotPoolOf } from '../domain/model-concurrency.ts'
import type { ModelSlots, SlotRequest } from '../domain/ports.ts'
import { RedisChannels } from './channels.ts'
import { type RedisConnection, replyTo } from './connection.ts'
import { slotKeys } from './key-space.ts'
import { enterScript, leaveScript, tendScript } from './slot-scripts.ts'

/** How long a slot, or a place among those that wait, outlives its process, in milliseconds, and how often they are renewed. */
const defaultLease = 30_000
const tendEvery = 2_000

/** The slots of this process alone, which also count what was granted elsewhere, until what `adopt` returns is called. */
export type LocalSlots = ModelSlots & { adopt(request: SlotRequest): () => void }

/** A call that waits for a slot or has one. `member` is its name in Redis, once that is known. */
type Call = {
  id: string
  request: SlotRequest
  pool: SlotPoolName
  member: string | null
  turn: PromiseWithResolvers<'here' | 'away'>
}

/**
 * The slots of all instances, in sorted sets that scripts keep. They decide as SlotPool does. A call that waits is told over a channel, and
 * looks by itself every two seconds, since what is published can be lost.
 */
export class RedisModelSlots implements ModelSlots {
  readonly bounded: readonly string[] | null
  readonly #concurrency: ModelConcurrency
  readonly #connection: RedisConnection
  readonly #channels: RedisChannels<string[]>
  readonly #lease: number
  /** Decides while Redis cannot be reached, and always knows what this process holds. */
  readonly #local: LocalSlots
  readonly #waiting = new Map<string, Call>()
  readonly #held = new Map<string, Call>()
  #listening: Promise<unknown> | null = null
  #tending: NodeJS.Timeout | null = null

  constructor(connection: RedisConnection, concurrency: ModelConcurrency, local: LocalSlots, options: { lease?: number } = {}) {
    connection.commands.defineCommand('enterSlots', { numberOfKeys: 4, lua: enterScript })
    connection.commands.defineCommand('leaveSlots', { numberOfKeys: 4, lua: leaveScript })
    connection.commands.defineCommand('tendSlots', { numberOfKeys: 4, lua: tendScript })
    this.#connection = connection
    this.bounded = boundedModels(concurrency)
    this.#concurrency = concurrency
    this.#lease = options.lease ?? defaultLease
    this.#local = local
    this.#channels = new RedisChannels(connection, (payload) => payload.split(' '))
  }

  async acquire(request: SlotRequest, signal: AbortSignal): Promise<() => void> {
    signal.throwIfAborted()
    const pool = slotPoolOf(this.#concurrency, request.model)
    if (!pool) return () => undefined
    const call: Call = { id: newId(), request, pool, member: null, turn: Promise.withResolvers() }
    const giveUp = () => call.turn.reject(signal.reason)
    signal.addEventListener('abort', giveUp, { once: true })
    // It may be aborted while nobody waits for it yet.
    call.turn.promise.catch(() => undefined)
    this.#waiting.set(call.id, call)
    this.#tend()
    try {
      await this.#enter(call)
      if ((await call.turn.promise) === 'away') return await this.#local.acquire(request, signal)
      signal.throwIfAborted()
    } catch (error) {
      void this.#leave(call)
      throw error
    } finally {
      this.#waiting.delete(call.id)
      signal.removeEventListener('abort', giveUp)
    }
    this.#held.set(call.id, call)
    const forget = this.#local.adopt(request)
    return () => {
      this.#held.delete(call.id)
      forget()
      void this.#leave(call)
    }
  }

  async #enter(call: Call): Promise<void> {
    const { id, request, pool } = call
    await this.#listen()
    try {
      const { keys, channel } = slotKeys(pool.name)
      const [member, granted] = await replyTo(
        this.#connection.commands.enterSlots(...keys, pool.cap, this.#lease, channel, request.tenantId, request.weight, id),
      )
      call.member = member
      if (granted === 1) call.turn.resolve('here')
    } catch {
      call.turn.resolve('away')
    }
  }

  /** What cannot be given back now is free when its lease has run out. */
  async #leave({ member, pool }: Call): Promise<void> {
    if (member === null) return
    const { keys, channel } = slotKeys(pool.name)
    await this.#connection.commands.leaveSlots(...keys, pool.cap, this.#lease, channel, member).catch(() => undefined)
  }

  /** Without it, each call looks by itself. */
  async #listen(): Promise<void> {
    const { channel } = slotKeys('')
    const told = (ids: string[]) => {
      for (const id of ids) this.#waiting.get(id)?.turn.resolve('here')
    }
    this.#listening ??= this.#channels
      .subscribe(channel, told, () => undefined)
      .catch(() => {
        this.#listening = null
      })
    await this.#listening
  }

  /** Renews what this process has, again and again while there is anything. */
  #tend(): void {
    this.#tending ??= setTimeout(async () => {
      const calls = [...this.#held.values(), ...this.#waiting.values()]
      for (const own of Map.groupBy(calls, ({ pool }) => pool.name).values()) await this.#renew(own)
      this.#tending = null
      if (this.#held.size + this.#waiting.size > 0) this.#tend()
    }, tendEvery).unref()
  }

  async #renew(calls: Call[]): Promise<void> {
    const [first] = calls
    if (!first) return
    const named = calls.filter(({ member }) => member !== null)
    const held = named.filter(({ id }) => this.#held.has(id))
    const waiting = named.filter(({ id }) => this.#waiting.has(id))
    const { keys, channel } = slotKeys(first.pool.name)
    const members = [...held, ...waiting].flatMap(({ member }) => member ?? [])
    try {
      const granted = await replyTo(
        this.#connection.commands.tendSlots(...keys, first.pool.cap, this.#lease, channel, held.length, ...members),
      )
      for (const call of waiting) if (call.member !== null && granted.includes(call.member)) call.turn.resolve('here')
    } catch {
      for (const call of waiting) call.turn.resolve('away')
    }
  }
}
