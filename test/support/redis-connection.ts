import { onTestFinished } from 'vitest'
import { type ConnectOptions, connectRedis, type RedisConnection } from '../../src/redis/connection.ts'
import type { RedisTarget } from '../../src/redis/target.ts'

/** Opens connections, to a single Redis unless told otherwise, that are closed when the test ends. `errors` collects what went wrong outside of any call. */
export async function connectForTest(
  target: string | RedisTarget,
  options: Omit<ConnectOptions, 'onError'> = {},
): Promise<{ connection: RedisConnection; errors: unknown[] }> {
  const errors: unknown[] = []
  const connection = await connectRedis(typeof target === 'string' ? { mode: 'single', url: target } : target, {
    ...options,
    onError: (error) => errors.push(error),
  })
  onTestFinished(() => connection.close())
  return { connection, errors }
}
