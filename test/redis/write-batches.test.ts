import { expect, it, onTestFinished } from 'vitest'
import { connectForTest } from '../support/redis-connection.ts'
import { redisAvailable, redisSuite, startRedisServer } from '../support/redis-server.ts'

it.skipIf(!redisAvailable)(redisSuite('commands of one turn of the event loop leave in one write, in their order'), async () => {
  const redis = await startRedisServer()
  onTestFinished(() => redis.stop())
  const { connection } = await connectForTest(redis.target)
  const { commands } = connection
  if (!('stream' in commands)) throw new Error('This is of a single Redis.')
  const { stream } = commands
  let writes = 0
  const { _write: write, _writev: writev } = stream
  stream._write = (...args) => {
    writes += 1
    write.apply(stream, args)
  }
  if (writev) {
    stream._writev = (...args) => {
      writes += 1
      writev.apply(stream, args)
    }
  }
  const counts = await Promise.all(Array.from({ length: 20 }, () => commands.incr('count')))
  expect(counts).toEqual(Array.from({ length: 20 }, (_, index) => index + 1))
  expect(writes).toBe(1)
  await commands.incr('count')
  expect(writes).toBe(2)
})
