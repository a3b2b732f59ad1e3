import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { isFenced } from '../../src/data/fence.ts'
import { placedPools } from '../../src/data/placed-pools.ts'
import { Placements } from '../../src/data/placements.ts'
import { PlatformDatabase } from '../../src/data/platform-database.ts'
import { TenantPool } from '../../src/data/tenant-pool.ts'
import { TenantData } from '../../src/data/tenant-scope.ts'
import { createAuthenticator, type OperatorScope } from '../../src/domain/authenticate.ts'
import { createConversation } from '../../src/domain/conversation.ts'
import { newId } from '../../src/domain/ids.ts'
import { resumeTenant, suspendTenant } from '../../src/domain/tenant-standing.ts'
import { rowOf, tenantParty } from '../isolation/rows.ts'
import { adminQuery } from '../support/database-url.ts'
import { testCipher, testMover } from '../support/placement.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { ask } from '../support/run-story.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'
import { addConversations, addRows, rowsOf, selectRows } from '../support/tenant-rows.ts'

let story: Story
let own: TestDatabase
let acme: TenantStory

beforeAll(async () => {
  ;[story, own] = await Promise.all([startStory(), createTestDatabase({ empty: true })])
})

beforeEach(async () => {
  acme = await story.tenant()
})

afterAll(async () => {
  await story.close()
  await own.drop()
})

const operator = (): OperatorScope => ({ ...story, operator: { id: newId(), name: 'Olga' } })

/** Moves `acme` as the command does, as far as the first line that is like `until`; with null, back to the shared database. */
async function move(adminUrl: string | null, until?: RegExp): Promise<string[]> {
  const lines: string[] = []
  const onProgress = (line: string) => {
    lines.push(line)
    if (until?.test(line)) throw new Error('interrupted')
  }
  await using moving = testMover(story.database, { onProgress })
  const placed = moving.mover.place(acme.tenant.name, adminUrl)
  await (until ? expect(placed).rejects.toThrow('interrupted') : placed)
  await story.catalog.placements.refresh()
  return lines
}

async function abort(): Promise<void> {
  await using moving = testMover(story.database)
  await moving.mover.abort(acme.tenant.name)
  await story.catalog.placements.refresh()
}

/** The catalogue's row of `acme`, and how far its move is. */
async function state() {
  const [row] = await selectRows(
    story.database,
    `select t.status, t.database_id is not null as "isElsewhere", t.fenced_at is not null as "isFenced", m.phase
     from tenants t left join tenant_moves m on m.id = t.id where t.id = '${acme.tenant.id}'`,
  )
  return row
}

const rowsIn = (database: TestDatabase) => rowsOf(database, acme.tenant.id)
const countIn = async (database: TestDatabase) => Object.values(await rowsIn(database)).flat().length

describe('a move', () => {
  it('takes rows of every table there and back; ids, counts and contents stay, and the neighbours are not touched', async () => {
    const { wall, rows } = tenantParty(`tenant-${newId()}`)
    const [price] = await selectRows(story.database, 'select id from prices limit 1')
    const priced = Object.entries(rows).map(([model, row]) => [
      model,
      'priceId' in row ? { ...row, priceId: price?.['id'] } : row,
    ])
    await addRows(story.database, Object.fromEntries(priced))
    await addConversations(story.database, wall.tenantId, 2_500)
    await ask(acme.member, 'neighbour')
    const before = await rowsOf(story.database, wall.tenantId)
    const neighbour = await rowsIn(story.database)
    expect(Object.entries(before).filter(([, rows]) => rows.length === 0)).toEqual([])

    await using moving = testMover(story.database)
    await moving.mover.place(rowOf({ rows }, 'Tenant')['name'] as string, own.adminUrl)
    const arrived = `select status, plan, database_id, fenced_at from tenants where id = '${wall.tenantId}'`
    expect(await selectRows(own, arrived)).toEqual([{ status: 'ACTIVE', plan: 'FREE', database_id: null, fenced_at: null }])
    await story.catalog.placements.refresh()
    expect(await rowsOf(own, wall.tenantId)).toEqual(before)
    expect(Object.values(await rowsOf(story.database, wall.tenantId)).flat()).toEqual([])
    expect(await story.data.of(wall).conversation.count()).toBe(2_501)

    await moving.mover.place(wall.tenantId, null)
    await story.catalog.placements.refresh()
    expect(await rowsOf(story.database, wall.tenantId)).toEqual(before)
    expect(Object.values(await rowsOf(own, wall.tenantId)).flat()).toEqual([])
    expect(await story.data.of(wall).conversation.count()).toBe(2_501)
    expect(await rowsIn(story.database)).toEqual(neighbour)
  })

  it('keeps the default agent, lets everybody in again, and checks every connection once more', async () => {
    const before = await story.catalog.tenants.accessVersions([acme.tenant.id])
    await move(own.adminUrl)
    const { tenant } = await story.signIn(acme.keys.member)
    expect(tenant).toMatchObject({ status: 'ACTIVE', defaultAgentId: acme.tenant.defaultAgentId })
    const { run } = await ask(acme.endUser)
    expect((await rowsIn(own))['runs']).toHaveLength(1)
    expect(await acme.endUser.db.run.findFirst({ where: { id: run.id } })).toMatchObject({ status: 'QUEUED' })
    const after = await story.catalog.tenants.accessVersions([acme.tenant.id])
    expect(after.get(acme.tenant.id)).toBeGreaterThan(before.get(acme.tenant.id) ?? 0)
    expect(await move(own.adminUrl)).toContain(`${acme.tenant.name} is there`)
    await move(null)
    const back = await story.catalog.tenants.accessVersions([acme.tenant.id])
    expect(back.get(acme.tenant.id)).toBeGreaterThan(after.get(acme.tenant.id) ?? 0)
    expect(await story.signIn(acme.keys.admin)).toMatchObject({ tenant: { defaultAgentId: acme.tenant.defaultAgentId } })
  })

  it('hands runs back that do not come to their end, and they are there to be claimed where the tenant arrives', async () => {
    const { run } = await ask(acme.member)
    await acme.member.db.run.updateMany({ where: { id: run.id }, data: { status: 'RUNNING', workerId: newId(), epoch: 1 } })
    await using moving = testMover(story.database, { timing: { drain: 300, settle: 0, grace: 0 } })
    await moving.mover.place(acme.tenant.name, own.adminUrl)
    await story.catalog.placements.refresh()
    expect(moving.lines).toContain('draining: handing back what is still under way')
    expect(await acme.member.db.run.findFirst({ where: { id: run.id } })).toMatchObject({
      status: 'QUEUED',
      epoch: 1,
      workerId: null,
    })
    expect(await story.catalog.tenantsWithOverdueRuns(-60_000)).toContain(acme.tenant.id)
  })

  it('is made by one process at a time', async () => {
    const { promise: entered, resolve: inside } = Promise.withResolvers<void>()
    await using one = testMover(story.database, { onProgress: (line) => void (line.startsWith('waiting') && inside()) })
    await using other = testMover(story.database)
    const moved = one.mover.place(acme.tenant.name, own.adminUrl)
    await entered
    await expect(other.mover.place(acme.tenant.id, null)).rejects.toThrow('Another process is moving this tenant.')
    await expect(other.mover.abort(acme.tenant.id)).rejects.toThrow('Another process is moving this tenant.')
    await moved
    await story.catalog.placements.refresh()
  })

  it.each([/^copying agents/, /^copied/])('brings what an operator added at "%s"', async (moment) => {
    await suspendTenant(operator(), { tenantId: acme.tenant.id, reason: 'unpaid' })
    let resumed: Promise<unknown> | undefined
    const lines: string[] = []
    const onProgress = (line: string) => {
      lines.push(line)
      if (moment.test(line)) resumed ??= resumeTenant(operator(), { tenantId: acme.tenant.id })
    }
    await using moving = testMover(story.database, { onProgress })
    await moving.mover.place(acme.tenant.name, own.adminUrl)
    await resumed
    await story.catalog.placements.refresh()
    const audit = `select action from audit_events where tenant_id = '${acme.tenant.id}' order by created_at desc limit 2`
    expect(await selectRows(own, audit)).toEqual([{ action: 'resumeTenant' }, { action: 'suspendTenant' }])
    expect(await state()).toMatchObject({ status: 'ACTIVE', isElsewhere: true })
    if (moment.source === '^copying agents') {
      expect(lines).toContain('an operator changed something meanwhile: copying again')
    }
  })

  it('does not switch to a copy that differs', async () => {
    await ask(acme.member, 'original')
    await using moving = testMover(story.database)
    await moving.mover.place((await story.tenant()).tenant.name, own.adminUrl)
    await adminQuery(
      own.adminUrl,
      `create function tamper() returns trigger language plpgsql as $$ begin new.content = 'tampered'; return new; end $$;
       create trigger tamper before insert on messages for each row execute function tamper()`,
    )
    await expect(moving.mover.place(acme.tenant.name, own.adminUrl)).rejects.toThrow(
      /^The copy of messages differs: 1 rows became 1, checksum \d+ became \d+\. Run the command again, or undo/,
    )
    await adminQuery(own.adminUrl, 'drop trigger tamper on messages; drop function tamper')
    expect(await state()).toMatchObject({ isElsewhere: false, phase: 'COPYING' })
    await move(own.adminUrl)
    expect(await acme.member.db.message.findMany()).toMatchObject([{ content: 'original' }])
  })

  it('leaves the runs of a tenant that is on its way alone', async () => {
    const { tenant } = await story.tenant()
    await using moving = testMover(story.database)
    await moving.mover.place(tenant.name, own.adminUrl)
    const { run } = await ask(acme.member)
    const worker = newId()
    await acme.member.db.run.updateMany({ where: { id: run.id }, data: { status: 'RUNNING', workerId: worker } })
    await using hasty = testMover(story.database, {
      timing: { drain: 0, settle: 0, grace: 0 },
      onProgress: (line) => {
        if (line.startsWith('copied')) throw new Error('interrupted')
      },
    })
    await expect(hasty.mover.place(acme.tenant.name, own.adminUrl)).rejects.toThrow('interrupted')
    await story.catalog.placements.refresh()
    expect((await rowsIn(own))['runs']).toHaveLength(1)
    expect(await story.catalog.tenantsWithOverdueRuns(-60_000)).not.toContain(acme.tenant.id)
  })
})

describe('a tenant that is suspended', () => {
  it('stays so wherever it is moved, and can be resumed there', async () => {
    await suspendTenant(operator(), { tenantId: acme.tenant.id, reason: 'unpaid' })
    await move(own.adminUrl, /copied and verified/)
    expect(await story.authenticate(acme.keys.member)).toBeNull()
    await move(own.adminUrl)
    expect(await state()).toMatchObject({ status: 'SUSPENDED', isElsewhere: true })
    expect(await story.authenticate(acme.keys.member)).toBeNull()
    await resumeTenant(operator(), { tenantId: acme.tenant.id })
    expect(await story.signIn(acme.keys.member)).toMatchObject({ tenant: { status: 'ACTIVE' } })
    await suspendTenant(operator(), { tenantId: acme.tenant.id, reason: 'unpaid' })
    expect(await story.authenticate(acme.keys.member)).toBeNull()
    const audit = `select action from audit_events where tenant_id = '${acme.tenant.id}'`
    expect(await selectRows(story.database, audit)).toEqual([])
    expect((await selectRows(own, audit)).filter(({ action }) => action === 'suspendTenant')).toHaveLength(2)
  })
})

describe('a move that is interrupted', () => {
  const moments = [/^moving/, /^draining/, /^copying agents/, /^copied and verified/, /^switched/, /^deleting/]

  it.each(moments)('at "%s" is gone on with', async (moment) => {
    await ask(acme.member)
    const before = await rowsIn(story.database)
    await move(own.adminUrl, moment)
    await move(own.adminUrl)
    expect(await rowsIn(own)).toEqual(before)
    expect(await countIn(story.database)).toBe(0)
    await move(null, moment)
    await move(null)
    expect(await rowsIn(story.database)).toEqual(before)
    expect(await countIn(own)).toBe(0)
    expect(await state()).toEqual({ status: 'ACTIVE', isElsewhere: false, isFenced: false, phase: 'DONE' })
  })

  it('is read and not written until it is gone on with', async () => {
    await move(own.adminUrl, /^copied/)
    expect(await acme.member.db.member.count()).toBe(2)
    await expect(createConversation(acme.member, {})).rejects.toSatisfy(isFenced)
    expect(await story.signIn(acme.keys.member)).toMatchObject({ tenant: { status: 'MOVING' } })
  })

  it('cannot be led elsewhere, only undone', async () => {
    await move(own.adminUrl, /^draining/)
    await using moving = testMover(story.database)
    await expect(moving.mover.place(acme.tenant.name, null)).rejects.toThrow(
      /is on its way to 127\.0\.0\.1:\d+\/test_\w+\. Finish that/,
    )
  })
})

describe('undoing a move', () => {
  it.each([/^moving/, /^draining/, /^copying agents/, /^copied and verified/])(
    'interrupted at "%s" leaves nothing of it, there and back',
    async (moment) => {
      await ask(acme.member)
      const before = await rowsIn(story.database)
      await move(own.adminUrl, moment)
      await abort()
      expect(await state()).toEqual({ status: 'ACTIVE', isElsewhere: false, isFenced: false, phase: null })
      expect(await rowsIn(story.database)).toEqual(before)
      expect(await countIn(own)).toBe(0)
      await createConversation(await story.signIn(acme.keys.member), {})

      const grown = await rowsIn(story.database)
      await move(own.adminUrl)
      await move(null, moment)
      await abort()
      expect(await state()).toEqual({ status: 'ACTIVE', isElsewhere: true, isFenced: true, phase: 'DONE' })
      expect(await rowsIn(own)).toEqual(grown)
      expect(await countIn(story.database)).toBe(0)
      await createConversation(await story.signIn(acme.keys.member), {})
    },
  )

  it('works without the database that it was to go to', async () => {
    const gone = await createTestDatabase({ empty: true })
    await move(gone.adminUrl, /^copied/)
    await gone.drop()
    await using moving = testMover(story.database)
    await moving.mover.abort(acme.tenant.name)
    expect(moving.lines).toContainEqual(
      expect.stringMatching(
        /^127\.0\.0\.1:\d+\/test_\w+ cannot be cleared \(.*\): what was copied is still there\. Drop that database\.$/,
      ),
    )
    expect(await state()).toEqual({ status: 'ACTIVE', isElsewhere: false, isFenced: false, phase: null })
    await createConversation(acme.member, {})
  })

  it('is too late after the switch, and idle without a move', async () => {
    await expect(abort()).rejects.toThrow('is not being moved')
    await move(own.adminUrl, /^switched/)
    await expect(abort()).rejects.toThrow('has been moved already')
  })
})

describe('a process that does not know yet', () => {
  /** One that looks where tenants are when it starts, and when it is told that something is wrong. */
  async function stale() {
    const platform = new PlatformDatabase({ connectionString: story.database.platformUrl })
    const placements = new Placements(platform, { cipher: testCipher, onError: (error) => Promise.reject(error) })
    await placements.refresh()
    const openPool = (connectionString: string) => new TenantPool({ connectionString, max: 2, shared: 1 })
    const data = new TenantData(openPool(story.database.appUrl), { elsewhere: placedPools(placements, openPool) })
    const close = async () => {
      await data.close()
      await placements.close()
      await platform.close()
    }
    return { data, authenticate: createAuthenticator({ ...story, data }), [Symbol.asyncDispose]: close }
  }

  it('is refused by the database that the tenant left, writes nothing there, and knows by then', async () => {
    await using late = await stale()
    const db = late.data.of({ tenantId: acme.tenant.id, userId: null })
    const scope = { ...acme.member, db }
    for (const [adminUrl, left] of [
      [own.adminUrl, story.database],
      [null, own],
    ] as const) {
      await move(adminUrl, /^waiting/)
      const before = await rowsIn(left)
      await expect(createConversation(scope, {})).rejects.toSatisfy(isFenced)
      await expect.poll(() => createConversation(scope, {}).then(() => 'written', String)).toBe('written')
      expect(await rowsIn(left)).toEqual(before)
      await move(adminUrl)
      expect(await countIn(left)).toBe(0)
    }
    expect(await acme.member.db.conversation.count()).toBe(2)
  })

  it('lets nobody in by what the tenant left behind', async () => {
    await using late = await stale()
    await move(own.adminUrl, /^waiting/)
    await acme.member.db.apiKey.updateMany({ where: { id: acme.endUser.actor.id }, data: { revokedAt: new Date() } })
    expect(await late.authenticate(acme.keys.endUser)).toBeNull()
    expect(await late.authenticate(acme.keys.member)).toMatchObject({ kind: 'tenant' })
    await move(null)
    expect(await late.authenticate(acme.keys.member)).toMatchObject({ kind: 'tenant' })
  })
})
