import { onTestFinished } from 'vitest'
import { type ConnectOptions, connectRedis, type RedisConnection } from '../../src/redis/connection.ts'

/** Opens connections that are closed when the test ends. `errors` collects what went wrong outside of any call. */
export async function connectForTest(
  url: string,
  options: Omit<ConnectOptions, 'onError'> = {},
): Promise<{ connection: RedisConnection; errors: unknown[] }> {
  const errors: unknown[] = []
  const connection = await connectRedis(url, { ...options, onError: (error) => errors.push(error) })
  onTestFinished(() => connection.close())
  return { connection, errors }
}
