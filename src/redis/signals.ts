import { isUuid, tenantIdOf } from '../domain/ids.ts'
import type { Signal, Signals, Unsubscribe } from '../domain/ports.ts'
import { RedisChannels } from './channels.ts'
import { type RedisConnection, replyTo } from './connection.ts'
import { platformKeys } from './key-space.ts'

const channel = `${platformKeys.signals.prefix}:c`

/** Signals to all instances, over one channel of the whole platform; they hold ids and nothing else. */
export class RedisSignals implements Signals {
  readonly #connection: RedisConnection
  readonly #channels: RedisChannels<Signal>

  constructor(connection: RedisConnection) {
    this.#connection = connection
    this.#channels = new RedisChannels(connection, decodeSignal)
  }

  /** Throws Unavailable while Redis cannot be reached. */
  async publish(signal: Signal): Promise<void> {
    await replyTo(this.#connection.commands.spublish(channel, JSON.stringify(signal)))
  }

  /** Throws Unavailable while Redis cannot be reached. */
  async subscribe(listener: (signal: Signal) => void): Promise<Unsubscribe> {
    // What was missed while the connection was lost is found by polling.
    return this.#channels.subscribe(channel, listener, () => undefined)
  }
}

function decodeSignal(payload: string): Signal {
  const { type, tenantId, runId, notificationId } = JSON.parse(payload)
  if (type === 'CancelRun' && isUuid(runId)) return { type, tenantId: tenantIdOf(tenantId), runId }
  if (type === 'AccessChanged') return { type, tenantId: tenantIdOf(tenantId) }
  if (type === 'NotificationCreated' && isUuid(notificationId)) return { type, tenantId: tenantIdOf(tenantId), notificationId }
  throw new TypeError('It is not a signal.')
}
