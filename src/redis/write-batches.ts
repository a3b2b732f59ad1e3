import type { Duplex } from 'node:stream'
import type { Redis } from 'ioredis'

/** What is held back until the event loop has gone round. */
const held = new Set<Duplex>()

/**
 * From now on, all commands that are sent in one round of the event loop leave in one write. A write to a socket costs more than all
 * else about a small command, to both ends: Redis then reads, answers and replicates them together too. A process with nothing else
 * to do waits for nothing.
 */
export function batchWrites(redis: Redis): void {
  redis.on('connect', () => {
    const { stream } = redis
    const write = stream.write.bind(stream) as (...args: unknown[]) => boolean
    stream.write = (...args: unknown[]) => {
      hold(stream)
      return write(...args)
    }
  })
}

function hold(stream: Duplex): void {
  if (held.has(stream)) return
  if (held.size === 0) setImmediate(releaseAll)
  held.add(stream)
  stream.cork()
}

function releaseAll(): void {
  for (const stream of held) stream.uncork()
  held.clear()
}
