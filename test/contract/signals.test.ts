import { beforeAll, describe, expect, test, vi } from 'vitest'
import { newId, tenantIdOf } from '../../src/domain/ids.ts'
import type { Signal, Signals } from '../../src/domain/ports.ts'
import { MemorySignals } from '../../src/memory/signals.ts'
import { RedisSignals } from '../../src/redis/signals.ts'
import { connectForTest } from '../support/redis-connection.ts'
import { type RedisDeployment, redisDeployments } from '../support/redis-deployments.ts'

/** The signals of two instances; in memory they are the same. `errors` are those of `other`. */
type SignalsPair = { signals: Signals; other: Signals; errors: unknown[] }

let redis: RedisDeployment

async function inMemory(): Promise<SignalsPair> {
  const errors: unknown[] = []
  const signals = new MemorySignals({ onError: (error) => errors.push(error) })
  return { signals, other: signals, errors }
}

async function onRedis(): Promise<SignalsPair> {
  const one = await connectForTest(redis.target)
  const two = await connectForTest(redis.target)
  return { signals: new RedisSignals(one.connection), other: new RedisSignals(two.connection), errors: two.errors }
}

describe.each([
  { name: 'in memory', open: inMemory, available: true, start: async () => undefined },
  ...redisDeployments.map(({ start, ...deployment }) => ({
    ...deployment,
    open: onRedis,
    start: async () => {
      redis = await start()
      return () => redis.stop()
    },
  })),
])('signals $name', ({ open, available, start }) => {
  describe.skipIf(!available)('keep the contract:', () => {
    beforeAll(start, 60_000)

    test('every listener of every instance receives each signal, in order', async () => {
      const { signals, other } = await open()
      const heard = await Promise.all([listen(signals), listen(signals), listen(other), listen(other)])
      const sent = [cancelRun(), accessChanged(), notificationCreated(), cancelRun()]
      for (const signal of sent) await signals.publish(signal)
      await vi.waitFor(() => expect(heard).toEqual([sent, sent, sent, sent]))
    })

    test('a listener that left receives nothing, while those who stay do', async () => {
      const { signals, other } = await open()
      const left: Signal[] = []
      const leave = await other.subscribe((signal) => left.push(signal))
      const stayed = await listen(other)
      await leave()
      await leave()
      const signal = cancelRun()
      await signals.publish(signal)
      await vi.waitFor(() => expect(stayed).toEqual([signal]))
      expect(left).toEqual([])
    })

    test('a listener may come when the last one leaves', async () => {
      const { signals, other } = await open()
      const leave = await other.subscribe(() => undefined)
      const [heard] = await Promise.all([listen(other), leave()])
      const [, late] = await Promise.all([(await other.subscribe(() => undefined))(), listen(other)])
      const signal = accessChanged()
      await signals.publish(signal)
      await vi.waitFor(() => expect([heard, late]).toEqual([[signal], [signal]]))
    })

    test('a signal without listeners is lost, not kept', async () => {
      const { signals, other } = await open()
      await signals.publish(cancelRun())
      const heard = await listen(other)
      const signal = cancelRun()
      await signals.publish(signal)
      await vi.waitFor(() => expect(heard).toEqual([signal]))
    })

    test('what a listener throws is reported and keeps nothing from the others', async () => {
      const { signals, other, errors } = await open()
      const failure = new Error('from a listener')
      await other.subscribe(() => {
        throw failure
      })
      const heard = await listen(other)
      const signal = cancelRun()
      await signals.publish(signal)
      await vi.waitFor(() => expect(heard).toEqual([signal]))
      expect(errors).toEqual([failure])
    })
  })
})

function cancelRun(): Signal {
  return { type: 'CancelRun', tenantId: tenantIdOf(newId()), runId: newId() }
}

function accessChanged(): Signal {
  return { type: 'AccessChanged', tenantId: tenantIdOf(newId()) }
}

function notificationCreated(): Signal {
  return { type: 'NotificationCreated', tenantId: tenantIdOf(newId()), notificationId: newId() }
}

/** Listens for the rest of the test and returns the growing list of what was heard. */
async function listen(signals: Signals): Promise<Signal[]> {
  const heard: Signal[] = []
  await signals.subscribe((signal) => heard.push(signal))
  return heard
}
