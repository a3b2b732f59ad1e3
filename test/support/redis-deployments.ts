import type { RedisTarget } from '../../src/redis/target.ts'
import { startRedisCluster } from './redis-cluster.ts'
import { redisAvailable, redisSuite, startRedisServer } from './redis-server.ts'

export type RedisDeployment = { target: RedisTarget; stop(): Promise<void> }

/** The kinds of Redis that must all keep a contract, for `describe.each`. */
export const redisDeployments: { name: string; available: boolean; start(): Promise<RedisDeployment> }[] = [
  { name: redisSuite('on Redis'), available: redisAvailable, start: () => startRedisServer() },
  { name: redisSuite('on a Redis Cluster'), available: redisAvailable, start: () => startRedisCluster() },
]
