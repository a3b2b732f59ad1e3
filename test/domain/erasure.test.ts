import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Catalog } from '../../src/data/catalog.ts'
import { isFenced } from '../../src/data/fence.ts'
import { TenantPool } from '../../src/data/tenant-pool.ts'
import { TenantData } from '../../src/data/tenant-scope.ts'
import { tenantTables } from '../../src/data/tenant-tables.ts'
import type { OperatorScope } from '../../src/domain/authenticate.ts'
import { type ErasureRecord, eraseTenant, findErasure, startErasureSweep } from '../../src/domain/erasure.ts'
import { Conflict, NotFound, Unauthenticated, ValidationProblem } from '../../src/domain/errors.ts'
import { hashInput } from '../../src/domain/idempotency.ts'
import { newId, tenantIdOf } from '../../src/domain/ids.ts'
import { setSecret } from '../../src/domain/secret.ts'
import { createTenant } from '../../src/domain/tenant.ts'
import { exportTenant } from '../../src/domain/tenant-export.ts'
import { suspendTenant } from '../../src/domain/tenant-standing.ts'
import { MemorySignals } from '../../src/memory/signals.ts'
import { type Party, tenantParty } from '../isolation/rows.ts'
import { seed, tenantTables as tablesInPostgres } from '../isolation/world.ts'
import { signInOperator } from '../support/operator.ts'
import { ask, impatient, startWorker, until } from '../support/run-story.ts'
import { scriptedModel } from '../support/scripted-model.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'

let story: Story
let operator: OperatorScope
let admin: pg.Client

beforeAll(async () => {
  story = await startStory()
  operator = await signInOperator(story)
  admin = new pg.Client({ connectionString: story.database.adminUrl })
  await admin.connect()
})

afterAll(async () => {
  await admin.end()
  await story.close()
})

const erase = async ({ id, name }: { id: string; name: string }): Promise<ErasureRecord> =>
  (await eraseTenant(operator, { tenantId: id, confirmName: name })).certificate

/** How many rows of the tenant each table has; tables without any are left out. */
async function rowsLeft(tenantId: string): Promise<Record<string, number>> {
  const left: Record<string, number> = {}
  for (const { name } of tenantTables) {
    const { rows } = await admin.query<{ count: number }>(`select count(*)::int from ${name} where tenant_id = $1`, [tenantId])
    if (rows[0]?.count) left[name] = rows[0].count
  }
  return left
}

type DumpedRow = { table: string; owner: string | null; text: string }

/** Every row of the database, whoever's, with all its columns as text: bytes are in hexadecimal there. */
async function dump(): Promise<DumpedRow[]> {
  const { rows: tables } = await admin.query<{ name: string }>(
    `select relname::text as name from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')`,
  )
  const owned = new Set(await tablesInPostgres(admin))
  const dumped: DumpedRow[] = []
  for (const { name } of tables) {
    const owner = !owned.has(name) ? 'null' : name === 'tenants' ? 'id::text' : 'tenant_id::text'
    const { rows } = await admin.query<DumpedRow>(
      `select '${name}' as table, ${owner} as owner, to_jsonb(t)::text as text from ${name} t order by 3`,
    )
    dumped.push(...rows)
  }
  return dumped
}

const traces = (rows: DumpedRow[], canary: string) =>
  rows.filter(({ text }) => text.includes(canary) || text.includes(Buffer.from(canary).toString('hex')))

/** The party with another name, and in the ledger, which stays, what a real one holds. */
function withLedger(party: Party, name: string): Party {
  const { Tenant, UsageRecord, TenantPrice } = party.rows
  return {
    ...party,
    rows: {
      ...party.rows,
      Tenant: { ...Tenant, name },
      UsageRecord: { ...UsageRecord, model: 'm', currency: 'USD' },
      TenantPrice: { ...TenantPrice, model: 'm' },
    },
  }
}

describe('eraseTenant', () => {
  it('leaves nothing of a tenant with a canary in every column, and all of a neighbour with the same names', {
    tags: ['rule-13'],
  }, async () => {
    const canary = 'canary-in-every-column'
    const own = withLedger(tenantParty(canary), `${canary} of the tenant`)
    const neighbour = withLedger(tenantParty(canary), `${canary} of the neighbour`)
    await seed(story.database.adminUrl, [own, neighbour])
    const id = tenantIdOf(own.wall.tenantId)
    const run = { tenantId: id, runId: newId() }
    await story.ports.eventLog.append(run, 1, 1, [{ type: 'TextDelta', text: canary }])
    await story.ports.admission.read(id, 1)
    const before = await dump()
    const held = traces(before, canary).filter(({ owner }) => owner === id)
    expect(new Set(held.map(({ table }) => table))).toEqual(
      new Set(
        ['tenants', ...tenantTables.map(({ name }) => name)].filter(
          (name) => !['usage_records', 'tenant_prices', 'tenant_exports'].includes(name),
        ),
      ),
    )

    const certificate = await erase({ id, name: `${canary} of the tenant` })
    const after = await dump()
    const isNeighbours = ({ owner }: DumpedRow) => owner === neighbour.wall.tenantId
    expect(traces(after, canary).filter((row) => !isNeighbours(row))).toEqual([])
    expect(after.filter(isNeighbours)).toEqual(before.filter(isNeighbours))
    const retained = { usage_records: 1, tenant_prices: 1 }
    expect(await rowsLeft(id)).toEqual(retained)
    expect([await story.ports.eventLog.count(id), await story.ports.admission.count(id)]).toEqual([0, 0])
    expect(JSON.stringify(await story.ports.eventLog.read(run, null))).not.toContain(canary)

    const each = { ...Object.fromEntries(tenantTables.map(({ name }) => [name, 1])), usage_rollups: 2 }
    expect(certificate).toMatchObject({
      ...{ tenantId: id, operatorName: 'Olga', found: { ...each, event_streams: 1, quota_counters: 1 } },
      ...{ erased: { ...each, event_streams: 1, quota_counters: 1, usage_records: 0, tenant_prices: 0 }, retained },
    })
    const { finishedAt, backupsExpireAt } = certificate
    expect((backupsExpireAt?.getTime() ?? 0) - (finishedAt?.getTime() ?? 0)).toBe(30 * 24 * 60 * 60_000)
    const kept = after.find(({ table, owner }) => table === 'usage_records' && owner === id)
    expect(kept).toEqual(before.find(({ table, owner }) => table === 'usage_records' && owner === id))
    await erase({ id: neighbour.wall.tenantId, name: `${canary} of the neighbour` })
    expect(traces(await dump(), canary)).toEqual([])
  })

  it('asks for the name, and does nothing without it', async () => {
    const { tenant, admin: someone } = await story.tenant()
    const before = await dump()
    for (const confirmName of ['', ` ${tenant.name}`, tenant.name.toUpperCase(), tenant.id]) {
      await expect(eraseTenant(operator, { tenantId: tenant.id, confirmName })).rejects.toThrow(ValidationProblem)
    }
    for (const tenantId of [newId(), 'nonsense', '']) {
      await expect(eraseTenant(operator, { tenantId, confirmName: tenant.name })).rejects.toThrow(new NotFound('tenant'))
    }
    expect(await dump()).toEqual(before)
    expect(await findErasure(operator, tenant.id)).toBeNull()
    await admin.query("update tenants set status = 'MOVING' where id = $1", [tenant.id])
    await expect(erase(tenant)).rejects.toThrow(Conflict)
    await admin.query("update tenants set status = 'ACTIVE' where id = $1", [tenant.id])
    await ask(someone)
  })

  it('leaves no digest by which a guess at the tenant could be confirmed, nor makes it again under the same key', async () => {
    const name = `tenant-${newId()}`
    const input = { name, plan: 'PRO' as const, adminEmail: `ada@${name}.example` }
    const digest = hashInput(input).toString('hex')
    const call = { ...input, idempotencyKey: name }
    const { tenant } = await createTenant(operator, call)
    expect(traces(await dump(), digest)).toHaveLength(1)
    await erase(tenant)
    expect(traces(await dump(), digest)).toEqual([])
    await expect(createTenant(operator, call)).rejects.toThrow(Conflict)
  })

  it.each(['DRAINING', 'COPYING'])('is refused while the tenant is moved (%s), also when it is suspended', async (phase) => {
    const { tenant } = await story.tenant()
    await suspendTenant(operator, { tenantId: tenant.id, reason: 'x' })
    await admin.query('insert into tenant_moves (id, phase) values ($1, $2)', [tenant.id, phase])
    await expect(erase(tenant)).rejects.toThrow(Conflict)
    expect(await findErasure(operator, tenant.id)).toBeNull()
    await admin.query('delete from tenant_moves where id = $1', [tenant.id])
    expect(await erase(tenant)).toMatchObject({ finishedAt: expect.any(Date) })
  })

  it('answers the same certificate whenever it is asked again, without the name, which is free', async () => {
    const { tenant, keys } = await story.tenant()
    await admin.query("update tenants set model_key_secret = 'KEY', model_base_url = 'https://models.example' where id = $1", [
      tenant.id,
    ])
    const asked = await Promise.all(Array.from({ length: 5 }, () => erase(tenant)))
    for (const certificate of asked) expect(certificate).toEqual(asked[0])
    expect(asked[0]?.finishedAt).not.toBeNull()
    expect(await erase({ id: tenant.id, name: 'forgotten' })).toEqual(asked[0])
    expect(await findErasure(operator, tenant.id)).toEqual(asked[0])
    expect(JSON.stringify(asked[0])).not.toContain(tenant.name)
    for (const key of Object.values(keys)) expect(await story.authenticate(key)).toBeNull()
    const columns = 'name, status, default_agent_id, model_key_secret, model_base_url'
    const { rows } = await admin.query(`select ${columns} from tenants where id = $1`, [tenant.id])
    expect(rows).toEqual([
      {
        ...{ name: `erased-${tenant.id}`, status: 'ERASED', default_agent_id: null },
        ...{ model_key_secret: null, model_base_url: null },
      },
    ])
    await admin.query("insert into tenants (id, name, plan) values ($1, $2, 'FREE')", [newId(), tenant.name])
  })

  it('holds off a worker that took a run, and has not said anything yet', async () => {
    const { tenant, endUser } = await story.tenant()
    const { run } = await ask(endUser)
    await admin.query("update runs set status = 'RUNNING', epoch = 1 where tenant_id = $1", [tenant.id])
    await erase(tenant)
    const late = story.ports.eventLog.append({ tenantId: tenant.id, runId: run.id }, 1_000, 1, [
      { type: 'TextDelta', text: 'late' },
    ])
    expect(await late).toMatchObject({ outcome: 'fenced' })
    expect(await story.ports.eventLog.count(tenant.id)).toBe(0)
  })

  it('destroys the keys of secrets, also those that are open', async () => {
    const { tenant, admin: someone } = await story.tenant()
    await setSecret(someone, { name: 'token', value: 'value' })
    const forgotten: string[] = []
    const vault = { ...story.ports.vault, forget: (id: string) => void forgotten.push(id) }
    await eraseTenant({ ...operator, ports: { ...story.ports, vault } }, { tenantId: tenant.id, confirmName: tenant.name })
    expect(forgotten).toEqual([tenant.id])
    expect(await rowsLeft(tenant.id)).toEqual({})
  })
})

it('takes longer than the server lets transactions be idle', async () => {
  const url = `${story.database.platformUrl}?options=-c%20idle_in_transaction_session_timeout%3D200`
  await using opened = new AsyncDisposableStack()
  const catalog = new Catalog({ connectionString: url })
  opened.defer(() => catalog.close())
  expect(await catalog.erasures.alone(newId(), () => delay(600))).toBe(true)
})

describe('an erasure that was interrupted', () => {
  /** An operator whose erasures break off at the n-th step. */
  function breakingOff(at: number): OperatorScope {
    let steps = 0
    const { erasures } = operator.catalog
    const broken = new Proxy(erasures, {
      get(target, property) {
        const method = Reflect.get(target, property)
        return (...args: unknown[]) => {
          if (!['find', 'begin', 'alone'].includes(String(property)) && ++steps === at) throw new Error('The process died.')
          return Reflect.apply(method, target, args)
        }
      },
    })
    return { ...operator, catalog: Object.create(operator.catalog, { erasures: { value: broken } }) }
  }

  it.each([1, 2, 3, 4, 5, 6])('goes on by itself: at step %i', { tags: ['rule-14'] }, async (step) => {
    const { tenant, endUser, admin: someone } = await story.tenant()
    const { run } = await ask(endUser)
    await story.ports.eventLog.append({ tenantId: tenant.id, runId: run.id }, 1, 1, [{ type: 'TextDelta', text: 'word' }])
    const input = { tenantId: tenant.id, confirmName: tenant.name }
    await expect(eraseTenant(breakingOff(step), input)).rejects.toThrow('The process died.')
    expect(await story.catalog.erasures.unfinished()).toEqual([tenant.id])
    await expect(exportTenant(someone, {})).rejects.toSatisfy(isFenced)

    const errors: unknown[] = []
    const stop = startErasureSweep(operator, (error) => errors.push(error))
    await until(async () => (await findErasure(operator, tenant.id))?.finishedAt !== null)
    await stop()
    expect([await rowsLeft(tenant.id), await story.ports.eventLog.count(tenant.id), errors]).toEqual([{}, 0, []])
    expect((await findErasure(operator, tenant.id))?.found).toMatchObject({ runs: 1, messages: 1, event_streams: 1 })
  })

  it('is not finished while something is left, and says what', async () => {
    const { tenant } = await story.tenant()
    const { eventLog } = story.ports
    const counting = { count: async () => 1, erase: eventLog.erase.bind(eventLog) }
    const ports = { ...story.ports, eventLog: { ...eventLog, ...counting } }
    const asking = eraseTenant({ ...operator, ports }, { tenantId: tenant.id, confirmName: tenant.name })
    await expect(asking).rejects.toThrow('there still are event_streams')
    expect((await findErasure(operator, tenant.id))?.finishedAt).toBeNull()
    expect((await erase(tenant)).finishedAt).not.toBeNull()
  })
})

describe('while the tenant is at work', () => {
  /** Says a word every few milliseconds until it is stopped. */
  const talks = scriptedModel([
    async function* (_request, signal) {
      for (let word = 0; ; word++) {
        signal.throwIfAborted()
        yield { type: 'text', text: `word ${word} ` }
        await new Promise((resolve) => setTimeout(resolve, 5))
      }
    },
  ])

  /** Sends until it is refused, and answers by what. */
  async function sendUntilRefused(tenant: TenantStory, isOver: () => boolean): Promise<unknown[]> {
    const refusals: unknown[] = []
    while (!isOver()) await ask(tenant.endUser).catch((error: unknown) => refusals.push(error))
    return refusals
  }

  it('is erased all the same: runs, senders, and a process that heard of nothing leave nothing behind', async () => {
    const tenant = await story.tenant()
    const { id } = tenant.tenant
    const deaf = { ...story.ports, signals: new MemorySignals({ onError: () => undefined }) }
    const elsewhere = new TenantData(new TenantPool({ connectionString: story.database.appUrl, max: 4 }))
    const stale = { ...tenant, endUser: { ...tenant.endUser, db: elsewhere.of({ tenantId: id, userId: 'ursula' }), ports: deaf } }
    {
      await using here = await startWorker(story, { model: talks, timing: impatient })
      // What it asks for itself comes long after the erasure.
      await using there = await startWorker(story, {
        ...{ model: talks, data: elsewhere, ports: deaf },
        timing: { ...impatient, watch: 60_000, sweep: 50 },
      })
      for (let run = 0; run < 6; run++) await ask(tenant.endUser)
      await until(async () => (await story.ports.eventLog.count(id)) >= 4)
      let isOver = false
      const sending = [tenant, stale].map((sender) => sendUntilRefused(sender, () => isOver))
      const certificate = await erase(tenant.tenant)
      expect(certificate.finishedAt).not.toBeNull()
      expect(certificate.found['runs']).toBeGreaterThanOrEqual(6)
      // Long enough for whoever still writes.
      await new Promise((resolve) => setTimeout(resolve, 300))
      isOver = true
      const refusals = (await Promise.all(sending)).flat()
      expect(refusals.length).toBeGreaterThan(0)
      const isRefusal = (error: unknown) => isFenced(error) || error instanceof NotFound || error instanceof Unauthenticated
      expect(refusals.filter((error) => !isRefusal(error))).toEqual([])
      expect([here.errors, there.errors]).toEqual([[], []])
    }
    const left = await rowsLeft(id)
    expect(Object.keys(left).filter((table) => table !== 'usage_records')).toEqual([])
    expect(await story.ports.eventLog.count(id)).toBe(0)
    await elsewhere.close()
  })
})
