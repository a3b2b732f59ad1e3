import { randomBytes } from 'node:crypto'
import { rm } from 'node:fs/promises'
import pino from 'pino'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { readConfig } from '../src/config.ts'
import { examine, tableOf } from '../src/doctor.ts'
import { tenantIdOf } from '../src/domain/ids.ts'
import { localSecrets } from '../src/local-secrets.ts'
import { rebuildSums } from '../src/rebuild-sums.ts'
import { quotaKeys } from '../src/redis/key-space.ts'
import { masterKeysOf } from '../src/secrets/master-keys.ts'
import { tenantParty } from './isolation/rows.ts'
import { seed } from './isolation/world.ts'
import { adminQuery } from './support/database-url.ts'
import { createTestDatabase, type TestDatabase } from './support/postgres.ts'
import { connectForTest } from './support/redis-connection.ts'
import { type RedisServer, redisAvailable, redisSuite, startRedisServer } from './support/redis-server.ts'
import { makeScratchDirectory } from './support/scratch.ts'

const active = tenantParty('active')
const logger = pino({ level: 'silent' })

describe.runIf(redisAvailable)(redisSuite('the doctor'), () => {
  let database: TestDatabase
  let redis: RedisServer
  let dataDir: string

  beforeAll(async () => {
    ;[database, redis, dataDir] = await Promise.all([
      createTestDatabase(),
      startRedisServer(),
      makeScratchDirectory('bulkhead-doctor-'),
    ])
    await seed(database.adminUrl, [active])
    await adminQuery(database.adminUrl, 'update runs set queued_at = now()')
    const { currentId } = masterKeysOf((await localSecrets(dataDir)).masterKey)
    await adminQuery(database.adminUrl, `update data_keys set wrapping_key_id = '${currentId}'`)
  })

  afterAll(async () => {
    await redis.stop()
    await database.drop()
    await rm(dataDir, { recursive: true })
  })

  function configOf(env: Record<string, string> = {}) {
    return readConfig({
      ...{ DATABASE_URL: database.appUrl, DATABASE_PLATFORM_URL: database.platformUrl, REDIS_URL: redis.url },
      ...{ BULKHEAD_DATA_DIR: dataDir, ...env },
    })
  }

  it('finds nothing wrong where all is well', async () => {
    const findings = await examine(configOf({ DATABASE_ADMIN_URL: database.adminUrl }), logger)
    expect(findings.map(({ what, verdict }) => [what, verdict])).toEqual(
      ['configuration', 'migrations', 'database role', 'catalogue', 'master key', 'redis', 'quota counters', 'ledgers'].map(
        (what) => [what, 'ok'],
      ),
    )
  })

  it('says what it cannot see', async () => {
    const findings = await examine(configOf(), logger)
    expect(findings.filter(({ verdict }) => verdict === 'not checked')).toEqual([
      { what: 'migrations', verdict: 'not checked', detail: 'DATABASE_ADMIN_URL is not set' },
    ])
  })

  it('finds a role that row-level security does not bind, and says so in a line', async () => {
    const findings = await examine(configOf({ DATABASE_URL: database.adminUrl }), logger)
    expect(findings).toContainEqual({ what: 'database role', verdict: 'problem', detail: expect.stringContaining('superuser') })
    expect(tableOf(findings)).toMatch(/^database role {3}problem {6}.*superuser/m)
  })

  it('finds a database that was never migrated, and says what to run', async () => {
    const empty = await createTestDatabase({ empty: true })
    try {
      const findings = await examine(configOf({ DATABASE_ADMIN_URL: empty.adminUrl }), logger)
      expect(findings).toContainEqual({
        what: 'migrations',
        verdict: 'problem',
        detail: expect.stringContaining('bulkhead migrate'),
      })
    } finally {
      await empty.drop()
    }
  })

  it('finds sums that are not what the ledger says, which are made anew by a command', async () => {
    const { tenantId } = active.wall
    const at = new Date().toISOString()
    const entered = `insert into usage_records (id, tenant_id, conversation_id, run_id, agent_id, config_version, turn, call, attempt, model,
        input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, estimated, cost_nanos, currency, created_at)
      select gen_random_uuid(), tenant_id, conversation_id, gen_random_uuid(), agent_id, 1, 0, 0, 1, 'm', 0, 0, 0, 0, false, 500, 'USD', '${at}'
      from usage_records where tenant_id = '${tenantId}' limit 1`
    const spoilt = `with gone as (delete from usage_rollups where tenant_id = '${tenantId}' and part = 0 and bucket > now() - interval '1 hour' returning *)
      insert into usage_rollups (tenant_id, bucket, part, model, agent_id, config_version, currency, is_correction, estimated, calls,
        input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, cost_nanos)
      select tenant_id, bucket, 1, 'm', gen_random_uuid(), 1, 'USD', false, false, 1, 0, 0, 0, 0, 700 from gone`
    await adminQuery(database.adminUrl, entered)
    await adminQuery(database.adminUrl, spoilt)
    const found = (await examine(configOf(), logger)).find(({ what }) => what === 'ledgers')
    expect(found).toEqual({
      what: 'ledgers',
      verdict: 'problem',
      detail: expect.stringMatching(`${tenantId} in .* by 200 and 200`),
    })

    expect(await rebuildSums(configOf(), logger, tenantId)).toBeGreaterThan(0)
    const mended = (await examine(configOf(), logger)).find(({ what }) => what === 'ledgers')
    expect(mended?.verdict).toBe('ok')
    await expect(rebuildSums(configOf(), logger, 'nobody')).rejects.toThrow('There is no tenant nobody.')
  })

  it('finds keys that an older master key wraps, and says what to run', async () => {
    const later = configOf({ BULKHEAD_MASTER_KEY: randomBytes(32).toString('base64') })
    expect(await examine(later, logger)).toContainEqual({
      what: 'master key',
      verdict: 'problem',
      detail: expect.stringMatching(/^1 data key and .* `bulkhead keys rotate`\.$/),
    })
  })

  it('finds counters that are not what the ledger says', async () => {
    const config = configOf()
    await examine(config, logger)
    const { connection } = await connectForTest(redis.url)
    const { counters } = quotaKeys(tenantIdOf(active.wall.tenantId))
    const figures = await connection.commands.hgetBuffer(counters, 'counts')
    if (!figures) throw new Error('Nothing is counted.')
    // The fifth figure is what was spent.
    figures.writeDoubleLE(figures.readDoubleLE(32) + 1_234, 32)
    await connection.commands.hset(counters, 'counts', figures)
    const findings = await examine(config, logger)
    const detail = expect.stringContaining(`${active.wall.tenantId} by +1234`)
    expect(findings).toContainEqual({ what: 'quota counters', verdict: 'problem', detail })
  })
})
