import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Catalog } from '../../src/data/catalog.ts'
import { isOutage } from '../../src/data/outage.ts'
import { placedPools } from '../../src/data/placed-pools.ts'
import { keepUp } from '../../src/data/placement-upkeep.ts'
import { TenantPool } from '../../src/data/tenant-pool.ts'
import { TenantData } from '../../src/data/tenant-scope.ts'
import type { OperatorScope } from '../../src/domain/authenticate.ts'
import { eraseTenant } from '../../src/domain/erasure.ts'
import { newId } from '../../src/domain/ids.ts'
import { suspendTenant } from '../../src/domain/tenant-standing.ts'
import { adminQuery } from '../support/database-url.ts'
import { testCipher, testMover } from '../support/placement.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { ask, follow, shownAfter, startWorker, until } from '../support/run-story.ts'
import { hangsAfter, says, scriptedModel } from '../support/scripted-model.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'
import { rowsOf, selectRows } from '../support/tenant-rows.ts'

let story: Story
let own: TestDatabase
/** Acme has a database of its own, which Initech shares with it; Globex is where most are. */
let [acme, initech, globex]: TenantStory[] = []

beforeAll(async () => {
  ;[story, own] = await Promise.all([startStory(), createTestDatabase({ empty: true })])
  ;[acme, initech, globex] = [await story.tenant(), await story.tenant(), await story.tenant()]
  await using moving = testMover(story.database)
  for (const { tenant } of [acme, initech]) await moving.mover.place(tenant.name, own.adminUrl)
  await story.catalog.placements.start()
})

afterAll(async () => {
  await story.close()
  await own.drop()
})

const as = (tenant: TenantStory | undefined): TenantStory => tenant as TenantStory
const operator = (): OperatorScope => ({ ...story, operator: { id: newId(), name: 'Olga' } })

describe('a tenant in a database of its own', () => {
  it('is answered as any other', async () => {
    await using _worker = await startWorker(story, { model: scriptedModel([says('Hello')]) })
    for (const tenant of [acme, globex]) {
      const { run } = await ask(as(tenant).endUser)
      expect((await follow(as(tenant).endUser, run.id)).at(-1)).toMatchObject({ type: 'RunCompleted' })
    }
    expect((await rowsOf(own, as(acme).tenant.id))['messages']).toHaveLength(2)
    expect((await rowsOf(story.database, as(acme).tenant.id))['messages']).toEqual([])
    expect((await rowsOf(own, as(globex).tenant.id))['messages']).toEqual([])
  })

  it('goes on there with an answer that did not end in time, for whoever follows it', async () => {
    const tenant = await story.tenant()
    const model = scriptedModel([hangsAfter(['Half an']), says('A whole answer')])
    await using _worker = await startWorker(story, { model })
    const { run } = await ask(tenant.endUser)
    const following = follow(tenant.endUser, run.id)
    await until(() => model.requests.length === 1)
    await using moving = testMover(story.database, { timing: { drain: 200, settle: 1_000, grace: 1_000 } })
    await moving.mover.place(tenant.tenant.name, own.adminUrl)
    const events = await following
    expect(events.at(-1)).toMatchObject({ type: 'RunCompleted' })
    expect(shownAfter(events)).toBe('A whole answer')
    const { runs, messages, usage_records: calls } = await rowsOf(own, tenant.tenant.id)
    expect([runs?.length, messages?.length, calls?.length]).toEqual([1, 2, 2])
    expect(await tenant.endUser.db.run.findFirst({ where: { id: run.id } })).toMatchObject({ status: 'COMPLETED', epoch: 2 })
  })

  it('has runs that are given to others when their worker is gone, and not while it lives', async () => {
    const { run } = await ask(as(acme).member)
    const worker = newId()
    await as(acme).member.db.run.updateMany({ where: { id: run.id }, data: { status: 'RUNNING', workerId: worker, epoch: 1 } })
    const claimed = { tenantId: as(acme).tenant.id, runId: run.id, epoch: 1 }
    expect(await story.catalog.runsOfWorker(worker)).toEqual([claimed])
    const elsewhere = story.catalog.placements.databaseOf(claimed.tenantId)
    const standing = { runId: run.id, epoch: 1, isUnderWay: true, isToEnd: false }
    expect(await story.catalog.standingOf([claimed, { ...claimed, runId: newId() }], elsewhere)).toEqual([standing])
    expect(await story.catalog.standingOf([claimed], null)).toEqual([])
    expect(await story.catalog.orphanedRuns(10_000)).toContainEqual(claimed)
    await story.catalog.heartbeat(worker)
    expect(await story.catalog.orphanedRuns(10_000)).not.toContainEqual(claimed)
    await as(acme).member.db.run.updateMany({ where: { id: run.id }, data: { status: 'QUEUED' } })
    expect(await story.catalog.tenantsWithOverdueRuns(-60_000)).toContain(as(acme).tenant.id)
  })

  it('is suspended where it is, also when whoever did it was cut off', async () => {
    const { tenant, keys } = as(initech)
    await suspendTenant(operator(), { tenantId: tenant.id, reason: 'unpaid' })
    expect(await story.authenticate(keys.member)).toBeNull()
    // As a process leaves it that ends between the two databases.
    await adminQuery(story.database.adminUrl, `update tenants set status = 'ACTIVE', plan = 'FREE' where id = '${tenant.id}'`)
    await expect.poll(() => story.authenticate(keys.member), { timeout: 5_000 }).not.toBeNull()
    expect((await story.signIn(keys.member)).tenant).toMatchObject({ status: 'ACTIVE', plan: 'FREE' })
  })

  it('is erased where it is, with what a move left behind', async () => {
    const tenant = await story.tenant()
    await ask(tenant.member)
    await using moving = testMover(story.database)
    await moving.mover.place(tenant.tenant.name, own.adminUrl)
    await story.catalog.placements.refresh()
    await eraseTenant(operator(), { tenantId: tenant.tenant.id, confirmName: tenant.tenant.name })
    for (const database of [own, story.database]) {
      expect(Object.values(await rowsOf(database, tenant.tenant.id)).flat()).toEqual([])
      expect(await selectRows(database, `select from tenants where name = '${tenant.tenant.name}'`)).toEqual([])
    }
  })

  it('lends its name to nobody', async () => {
    const registration = { id: newId(), name: as(acme).tenant.name, plan: 'FREE' as const }
    const audit = {
      ...{ id: newId(), tenantId: registration.id, actorKind: 'OPERATOR' as const, actorName: 'Olga' },
      action: 'a',
      subject: 's',
    }
    expect(await story.catalog.tenants.reserve(registration, audit, null)).toBeNull()
  })
})

describe('the databases', () => {
  const urls = () => ({ appUrl: story.database.appUrl, platformUrl: story.database.platformUrl })
  const upkeep = (migrate: boolean) =>
    keepUp(story.catalog.placements, { migrateLike: migrate ? urls() : null, cipher: testCipher, onProgress: () => undefined })

  it('are all migrated, and have the prices of the catalogue', async () => {
    await adminQuery(
      own.adminUrl,
      `delete from _prisma_migrations where migration_name like '%fence_passes_cascades';
       insert into prices select gen_random_uuid(), 'new', 1, 'USD', 1, 1, 1, now() where false`,
    )
    await story.catalog.registerPrices([
      {
        model: 'brand-new',
        currency: 'USD',
        inputNanos: 1n,
        cachedInputNanos: 1n,
        outputNanos: 1n,
        validFrom: new Date(),
      },
    ])
    const [outcome] = await upkeep(true)
    expect(outcome).toMatchObject({ applied: [expect.stringContaining('fence_passes_cascades')], refusals: [], problem: null })
    const prices = 'select * from prices order by id'
    expect(await selectRows(own, prices)).toEqual(await selectRows(story.database, prices))
  })

  it('pass the boot gate, each before it is used', { tags: ['rule-1', 'rule-2'] }, async () => {
    await adminQuery(own.adminUrl, 'ALTER TABLE messages NO FORCE ROW LEVEL SECURITY')
    const [outcome] = await upkeep(false)
    expect(outcome?.refusals).toEqual(['Row-level security is not forced on the table messages.'])
    const openPool = (connectionString: string) => new TenantPool({ connectionString, max: 1, shared: 0 })
    const data = new TenantData(openPool(story.database.appUrl), { elsewhere: placedPools(story.catalog.placements, openPool) })
    const read = () => data.of({ tenantId: as(acme).tenant.id, userId: null }).member.count()
    await expect(read()).rejects.toSatisfy(isOutage)
    await adminQuery(own.adminUrl, 'ALTER TABLE messages FORCE ROW LEVEL SECURITY')
    expect(await read()).toBe(2)
    await data.close()
  })

  it('fail one by one: who is elsewhere is served, and told of', async () => {
    const [row] = await selectRows(story.database, 'select id, name from databases')
    const away = `postgres://x:y@127.0.0.1:9/away`
    const sealed = await Promise.all(
      ['app_url', 'platform_url', 'admin_url'].map((column) => testCipher.seal(`databases/${row?.['id']}/${column}`, away)),
    )
    const bytes = sealed.map((url) => `'\\x${Buffer.from(url).toString('hex')}'`)
    const [kept] = await selectRows(
      story.database,
      `select encode(app_url, 'hex') as a, encode(platform_url, 'hex') as p, encode(admin_url, 'hex') as d from databases`,
    )
    await adminQuery(
      story.database.adminUrl,
      `update databases set app_url = ${bytes[0]}, platform_url = ${bytes[1]}, admin_url = ${bytes[2]}`,
    )
    const errors: unknown[] = []
    const catalog = new Catalog({
      connectionString: story.database.platformUrl,
      cipher: testCipher,
      onIdleError: (error) => void errors.push(error),
    })
    await catalog.placements.start()
    const { run } = await ask(as(globex).member)
    expect(run.status).toBe('QUEUED')
    expect(await catalog.tenantsWithOverdueRuns(-60_000)).toContain(as(globex).tenant.id)
    const versions = await catalog.tenants.accessVersions([as(acme).tenant.id, as(globex).tenant.id])
    expect([...versions.keys()]).toEqual([as(globex).tenant.id])
    expect(errors.length).toBeGreaterThan(0)
    const [outcome] = await keepUp(catalog.placements, { migrateLike: null, cipher: testCipher, onProgress: () => undefined })
    expect(outcome?.problem?.message).toMatch(/ECONNREFUSED/)
    await catalog.close()
    await adminQuery(
      story.database.adminUrl,
      `update databases set app_url = '\\x${kept?.['a']}', platform_url = '\\x${kept?.['p']}', admin_url = '\\x${kept?.['d']}'`,
    )
  })
})
