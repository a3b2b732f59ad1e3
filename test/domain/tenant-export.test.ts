import { createHash } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { inspect } from 'node:util'
import fc from 'fast-check'
import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { globalTables } from '../../src/data/global-tables.ts'
import { TenantPool } from '../../src/data/tenant-pool.ts'
import { TenantData, type TenantTransaction } from '../../src/data/tenant-scope.ts'
import { createConversation } from '../../src/domain/conversation.ts'
import { Forbidden, NotFound } from '../../src/domain/errors.ts'
import { archivedTables } from '../../src/domain/export-archive.ts'
import { type ExportSink, TooManyExports } from '../../src/domain/export-snapshot.ts'
import { newId, tenantIdOf } from '../../src/domain/ids.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { exportTenant, findTenantExport, progressOf, sendArchive } from '../../src/domain/tenant-export.ts'
import { tenantParty } from '../isolation/rows.ts'
import { seed } from '../isolation/world.ts'
import { ask } from '../support/run-story.ts'
import { type Story, startStory } from '../support/story.ts'

let story: Story
let admin: pg.Client

beforeAll(async () => {
  story = await startStory()
  admin = new pg.Client({ connectionString: story.database.adminUrl })
  await admin.connect()
})

afterAll(async () => {
  await admin.end()
  await story.close()
})

type Line = { table: string; row: Record<string, unknown> }
type Archive = {
  manifest: { tables: { name: string; rows: number }[] }
  lines: Line[]
  trailer: { rows: number; sha256: string }
}

const begin = async (scope: Scope) => (await exportTenant(scope, {})).tenantExport.id

/** Keeps what is sent; `between` is called before each piece. */
function collector(between: () => Promise<void> = async () => undefined): ExportSink & { text: () => string } {
  const pieces: string[] = []
  return {
    async write(text) {
      await between()
      pieces.push(text)
    },
    end: async () => undefined,
    text: () => pieces.join(''),
  }
}

async function archiveOf(scope: Scope, sink = collector()): Promise<Archive> {
  await sendArchive(scope, await begin(scope), sink)
  return parse(sink.text())
}

function parse(text: string): Archive {
  const lines = text.trimEnd().split('\n')
  const [first = '', ...rest] = lines.map((line) => JSON.parse(line))
  return { manifest: first.manifest, lines: rest.slice(0, -1), trailer: rest.at(-1).trailer }
}

/** The names of the rows' columns in Postgres, from the fields of the archive. */
const columnOf = (field: string) => field.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)

/** What the superuser sees of a tenant's table, as the archive should have it. */
async function storedRows({ name, fields }: (typeof archivedTables)[number], tenantId: string) {
  const owner = name === 'tenants' ? 'id' : 'tenant_id'
  const { rows } = await admin.query<{ row: Record<string, unknown> }>(
    `select to_jsonb(t) as row from ${name} t where ${owner} = $1`,
    [tenantId],
  )
  return rows.map(({ row }) => Object.fromEntries(fields.map((field) => [field, plain(field, row[columnOf(field)])])))
}

/** Of the type bigint. */
const largeNumbers: ReadonlySet<string> = new Set([
  ...['costNanos', 'max', 'inputNanos', 'cachedInputNanos', 'outputNanos', 'amountNanos'],
])

/** Postgres and JavaScript write times and large numbers differently. */
function plain(field: string, value: unknown): unknown {
  if (/(At|^validFrom|^validTo)$/.test(field) && typeof value === 'string') return new Date(value).toISOString()
  return largeNumbers.has(field) ? String(value) : value
}

/** Rows that are in one list and not in the other; some of them, if there are many. */
function differences(one: object[], other: object[]): string[] {
  const [left, right] = [one, other].map((rows) => new Set(rows.map((row) => inspect(row, { sorted: true, depth: null }))))
  if (!left || !right || one.length !== other.length) return [`${one.length} rows, and ${other.length}`]
  const missing = [...left].filter((row) => !right.has(row))
  return [...missing, ...[...right].filter((row) => !left.has(row))].slice(0, 3)
}

type Stored = Map<string, Record<string, unknown>[]>

async function everythingOf(tenantId: string): Promise<Stored> {
  const stored: Stored = new Map()
  for (const table of archivedTables) stored.set(table.name, await storedRows(table, tenantId))
  return stored
}

/** An archive of the scope's tenant, whose rows are those that were there when it was sent. */
async function expectWhole(scope: Scope): Promise<{ text: string; lines: Line[] }> {
  const id = await begin(scope)
  const stored = await everythingOf(scope.tenant.id)
  const sink = collector()
  await sendArchive(scope, id, sink)
  const { manifest, lines } = parse(sink.text())
  for (const [name, rows] of stored) {
    const archived = lines.filter(({ table }) => table === name).map(({ row }) => row)
    expect(differences(archived, rows), name).toEqual([])
    expect(manifest.tables).toContainEqual({ name, rows: rows.length })
  }
  return { text: sink.text(), lines }
}

describe('an archive', () => {
  it('has every table with rows of tenants, and every column that is not withheld with a reason', async () => {
    const { rows } = await admin.query<{ table: string; column: string }>(
      `select c.relname::text as table, a.attname::text as column from pg_class c join pg_attribute a on a.attrelid = c.oid
       where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and a.attnum > 0 and not a.attisdropped
         and (c.relname = 'tenants' or not c.relname = any ($1))`,
      [[...Object.keys(globalTables), 'usage_rollups']],
    )
    const archived = new Set(archivedTables.flatMap(({ name, fields }) => fields.map((field) => `${name}.${columnOf(field)}`)))
    const missing = rows.map(({ table, column }) => `${table}.${column}`).filter((column) => !archived.has(column))
    expect(missing.toSorted()).toEqual([
      'api_keys.pepper_version',
      'api_keys.secret_hash',
      'data_keys.wrapped_key',
      'data_keys.wrapping_key_id',
      'idempotency_keys.input_hash',
      'secrets.ciphertext',
      'secrets.data_key_id',
      'tenants.access_version',
      'tenants.database_id',
      'tenants.fenced_at',
      'webhooks.ciphertext',
      'webhooks.data_key_id',
    ])
    expect(archived.size + missing.length).toBe(rows.length)
  })

  it('equals the rows, a row in every table, and holds nothing that is withheld', { tags: ['rule-13'] }, async () => {
    const [own, neighbour] = [tenantParty('canary'), tenantParty('neighbour')]
    await seed(story.database.adminUrl, [own, neighbour])
    const { admin: someone } = await story.tenant()
    const tenant = { ...someone.tenant, id: tenantIdOf(own.wall.tenantId), name: 'canary' }
    const scope: Scope = { ...someone, db: story.data.of(own.wall), tenant }
    const { text, lines } = await expectWhole(scope)
    expect(new Set(lines.map(({ table }) => table))).toEqual(new Set(archivedTables.map(({ name }) => name)))
    expect(text).not.toContain('neighbour')
    for (const encoding of ['base64', 'hex'] as const) expect(text).not.toContain(Buffer.from('canary').toString(encoding))
    const names = lines.filter(({ table }) => table === 'secrets').map(({ row }) => Object.keys(row))
    expect(names).toEqual([['id', 'tenantId', 'name', 'createdAt', 'updatedAt']])
  })

  it('equals the rows, whatever is in them', async () => {
    const { tenant, admin: scope } = await story.tenant()
    const text = fc.string({ unit: 'binary', maxLength: 50 }).map((some) => some.replaceAll('\u0000', ''))
    const json = fc.jsonValue({ maxDepth: 2 }).map((value) => JSON.parse(JSON.stringify(value).replaceAll('\\u0000', '')))
    const conversation = fc.record({ title: fc.option(text), messages: fc.array(fc.tuple(text, json), { maxLength: 5 }) })
    await fc.assert(
      fc.asyncProperty(fc.array(conversation, { maxLength: 5 }), async (conversations) => {
        for (const { title, messages } of conversations) {
          const id = newId()
          const agentId = scope.tenant.defaultAgentId
          await admin.query('insert into conversations (id, tenant_id, agent_id, title) values ($1, $2, $3, $4)', [
            ...[id, tenant.id, agentId, title],
          ])
          for (const [content, turns] of messages) {
            const runId = newId()
            await admin.query(
              `insert into runs (id, tenant_id, conversation_id, agent_id, config_version, model, turns) values ($1, $2, $3, $4, 1, 'm', $5)`,
              [runId, tenant.id, id, agentId, JSON.stringify(turns)],
            )
            await admin.query(
              `insert into messages (id, tenant_id, conversation_id, run_id, role, content, tokens_used) values ($1, $2, $3, $4, 'USER', $5, 1)`,
              [newId(), tenant.id, id, runId, content],
            )
          }
        }
        await expectWhole(scope)
      }),
      { numRuns: 8 },
    )
  })

  it('goes through keys of several columns, a few rows at a time, and waits for each piece to be taken', async () => {
    const { tenant, admin: scope, endUser } = await story.tenant()
    await fill(tenant.id, await ask(endUser), 250)
    // Three actors, nine mutations of each, and all keys alike.
    await admin.query(
      `insert into idempotency_keys (tenant_id, actor, mutation, key, input_hash, result_id)
       select $1, 'actor ' || n % 3, 'Mutation ' || n % 9, 'key ' || n, '', gen_random_uuid() from generate_series(1, 350) n`,
      [tenant.id],
    )
    await expectWhole(scope)
    const lines: number[] = []
    let underWay = 0
    let most = 0
    await sendArchive(scope, await begin(scope), {
      async write(text) {
        most = Math.max(most, ++underWay)
        await new Promise((resolve) => setTimeout(resolve, 1))
        lines.push(text.trimEnd().split('\n').length)
        underWay--
      },
      end: async () => undefined,
    })
    expect([Math.max(...lines), most]).toEqual([100, 1])
  })

  it('tells its own length and digest', async () => {
    const { admin: scope } = await story.tenant()
    const sink = collector()
    const { manifest, lines, trailer } = await archiveOf(scope, sink)
    const body = sink.text().slice(0, sink.text().trimEnd().lastIndexOf('\n') + 1)
    expect(trailer).toEqual({ rows: lines.length, sha256: createHash('sha256').update(body).digest('hex') })
    expect(manifest.tables.reduce((sum, { rows }) => sum + rows, 0)).toBe(lines.length)
  })

  it('holds one moment, whatever is written while it is sent', async () => {
    const { tenant, admin: scope, endUser } = await story.tenant()
    await fill(tenant.id, await ask(endUser), 250)
    const before = await everythingOf(tenant.id)
    let writes = 0
    const sink = collector(async () => {
      const { run } = await ask(endUser, `word ${writes++}`)
      await admin.query('delete from messages where tenant_id = $1 and run_id <> $2', [tenant.id, run.id])
    })
    const id = await begin(scope)
    await sendArchive(scope, id, sink)
    const { lines } = parse(sink.text())
    expect(writes).toBeGreaterThan(15)
    for (const name of ['messages', 'runs', 'conversations']) {
      const rows = lines.filter(({ table }) => table === name).map(({ row }) => row)
      expect(differences(rows, before.get(name) ?? []), name).toEqual([])
    }
  })
})

describe('an export', () => {
  it('is for admins of its tenant, and for others not there', { tags: ['rule-12'] }, async () => {
    const [own, other] = [await story.tenant(), await story.tenant()]
    const id = await begin(own.admin)
    for (const scope of [own.member, own.endUser]) {
      await expect(exportTenant(scope, {})).rejects.toThrow(Forbidden)
      await expect(findTenantExport(scope, id)).rejects.toThrow(Forbidden)
      await expect(sendArchive(scope, id, collector())).rejects.toThrow(Forbidden)
    }
    for (const unknown of [id, newId(), 'nonsense']) {
      expect(await findTenantExport(other.admin, unknown)).toBeNull()
      await expect(sendArchive(other.admin, unknown, collector())).rejects.toThrow(new NotFound('export'))
    }
    expect(await findTenantExport(own.admin, id)).toMatchObject({ id, status: 'READY' })
  })

  it('is the same one when it is asked for again under its key, and is in the audit log once', async () => {
    const { admin: scope } = await story.tenant()
    const asked = await Promise.all([1, 2, 3].map(() => exportTenant(scope, { idempotencyKey: 'k' })))
    expect(new Set(asked.map(({ tenantExport }) => tenantExport.id)).size).toBe(1)
    expect(await scope.db.auditEvent.count({ where: { action: 'exportTenant' } })).toBe(1)
  })

  it('waits for whoever takes it slowly, longer than other transactions may wait', async () => {
    const { tenant, admin: scope, endUser } = await story.tenant()
    await fill(tenant.id, await ask(endUser), 300)
    const connectionString = `${story.database.appUrl}?options=-c%20idle_in_transaction_session_timeout%3D200`
    const data = new TenantData(new TenantPool({ connectionString }))
    onTestFinished(() => data.close())
    const slow = { ...scope, db: data.of({ tenantId: tenant.id, userId: null }) }
    let pieces = 0
    const sink = collector(async () => {
      if (++pieces === 3) await delay(600)
    })
    await archiveOf(slow, sink)
    expect(pieces).toBeGreaterThan(3)
  })

  it('tells how far it is, can fail, and can be fetched again', async () => {
    const { tenant, admin: scope, endUser } = await story.tenant()
    await fill(tenant.id, await ask(endUser), 300)
    const id = await begin(scope)
    const seen: { status: string; progress: number }[] = []
    const look = async () => {
      const found = await findTenantExport(scope, id)
      if (found) seen.push({ status: found.status, progress: progressOf(found) })
    }
    await look()
    let pieces = 0
    const sink = collector(async () => {
      pieces++
      // Longer than between two notes.
      if (pieces === 11) await new Promise((resolve) => setTimeout(resolve, 1_050))
      if (pieces === 12) await look()
      if (pieces === 13) throw new Error('The client is gone.')
    })
    await expect(sendArchive(scope, id, sink)).rejects.toThrow('The client is gone.')
    await look()
    await sendArchive(scope, id, collector())
    await look()
    expect(seen.map(({ status }) => status)).toEqual(['READY', 'STREAMING', 'FAILED', 'COMPLETED'])
    expect(seen.map(({ progress }) => progress)).toEqual([0, expect.any(Number), expect.any(Number), 1])
    expect(seen[1]?.progress).toBeGreaterThan(0)
    expect(seen[1]?.progress).toBeLessThan(1)
  })

  it('is one of two of its tenant that are under way, whichever process sends them', async () => {
    const [own, other] = [await story.tenant(), await story.tenant()]
    const elsewhere = new TenantData(new TenantPool({ connectionString: story.database.appUrl, max: 4 }))
    const scopes = [own.admin, { ...own.admin, db: elsewhere.of({ tenantId: own.tenant.id, userId: null }) }]
    const id = await begin(own.admin)
    const { promise: released, resolve: release } = Promise.withResolvers<void>()
    const held = scopes.map((scope) => {
      const begun = Promise.withResolvers<void>()
      const sink = collector(async () => {
        begun.resolve()
        await released
      })
      return { begun: begun.promise, done: sendArchive(scope, id, sink) }
    })
    await Promise.all(held.map(({ begun }) => begun))
    for (const scope of scopes) await expect(sendArchive(scope, id, collector())).rejects.toThrow(TooManyExports)
    expect((await findTenantExport(own.admin, id))?.status).toBe('STREAMING')
    await archiveOf(other.admin)
    release()
    await Promise.all(held.map(({ done }) => done))
    await sendArchive(own.admin, id, collector())
    await elsewhere.close()
  })

  it.each([null, 'again'])('leaves connections to others, however many are asked for (key: %s)', async (idempotencyKey) => {
    const [acme, globex] = [await story.tenant(), await story.tenant()]
    await admin.query('BEGIN')
    await admin.query('lock table secrets in access exclusive mode')
    const asked = Promise.allSettled(Array.from({ length: 12 }, () => exportTenant(acme.admin, { idempotencyKey })))
    try {
      await delay(500)
      await createConversation(globex.member, {})
    } finally {
      await admin.query('ROLLBACK')
    }
    const outcomes = await asked
    for (const outcome of outcomes) if (outcome.status === 'rejected') expect(outcome.reason).toBeInstanceOf(TooManyExports)
    expect(outcomes.some(({ status }) => status === 'fulfilled')).toBe(true)
  })

  it('changes nothing: its transaction cannot', async () => {
    const { admin: scope } = await story.tenant()
    const id = await begin(scope)
    const db = Object.create(scope.db, {
      $transaction: {
        value: (work: (tx: TenantTransaction) => Promise<unknown>, options: object) =>
          scope.db.$transaction(async (tx) => {
            await work(tx)
            await tx.member.deleteMany({})
          }, options),
      },
    })
    await expect(sendArchive({ ...scope, db }, id, collector())).rejects.toThrow(/read-only/)
  })
})

/** Adds messages, each of a run of its own, beside the one that was sent. */
async function fill(tenantId: string, { run }: { run: { id: string } }, count: number, content = 'word'): Promise<void> {
  await admin.query(
    `with run as (
       insert into runs (id, tenant_id, conversation_id, agent_id, config_version, model, status, finished_at)
       select gen_random_uuid(), tenant_id, conversation_id, agent_id, 1, 'm', 'COMPLETED', now()
       from runs, generate_series(1, $3) where tenant_id = $1 and id = $2
       returning *)
     insert into messages (id, tenant_id, conversation_id, run_id, role, content, tokens_used)
     select gen_random_uuid(), tenant_id, conversation_id, id, 'USER', $4, 1 from run`,
    [tenantId, run.id, count, content],
  )
}
