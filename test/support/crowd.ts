import pg from 'pg'
import type { Wall } from '../../src/data/scoped-query.ts'
import { statementNames } from '../../src/data/statement-names.ts'
import type { TenantPool } from '../../src/data/tenant-pool.ts'
import { newId } from '../../src/domain/ids.ts'
import { adminQuery } from './database-url.ts'

/** How many statements a crowd sends: `STATEMENTS`, by default as many as suit every run of the tests. */
export const crowdStatements = Number(process.env['STATEMENTS'] ?? 500)

/** A tenant with one conversation of its staff and one of each of its two end users. */
type Tenant = { tenantId: string; agentId: string; conversations: Map<string | null, string> }

/** What a crowd came to. */
export type Findings = {
  statements: number
  /** Whatever a tenant or user saw, could change or was told that was not as it should be. */
  leaks: string[]
  /** Operations that ended because a backend was terminated under them or, behind a pooler, under somebody else. */
  broken: number
}

const users = [null, 'ann', 'bob'] as const

const read = `select tenant_id, user_id, current_setting('app.current_tenant') as tenant, current_setting('app.current_user') as user
              from conversations`

/** Makes the crowd's tenants. */
export async function seedCrowd(adminUrl: string): Promise<Tenant[]> {
  const tenants = Array.from({ length: 20 }, () => ({
    tenantId: newId(),
    agentId: newId(),
    conversations: new Map(users.map((user) => [user, newId()])),
  }))
  for (const { tenantId, agentId, conversations } of tenants) {
    const rows = [...conversations].map(([user, id]) => `('${id}', '${tenantId}', '${agentId}', ${user ? `'${user}'` : 'null'})`)
    await adminQuery(
      adminUrl,
      `insert into tenants (id, name, plan) values ('${tenantId}', 'tenant ${tenantId}', 'FREE');
       insert into agents (id, tenant_id, slug, name, active_version) values ('${agentId}', '${tenantId}', 'main', 'main', 1);
       insert into conversations (id, tenant_id, agent_id, user_id) values ${rows.join(', ')}`,
    )
  }
  return tenants
}

/**
 * Sends `crowdStatements` statements of all tenants through `pool`, 40 callers at a time: short reads, exclusive reads, writes,
 * transactions that end in every way, refused statements, statements stopped for their length, terminated backends.
 */
export async function sendCrowd(pool: TenantPool, tenants: Tenant[], adminUrl: string): Promise<Findings> {
  const findings: Findings = { statements: 0, leaks: [], broken: 0 }
  const operations = operationsOn(pool, tenants, adminUrl, findings)
  let next = 0
  const caller = async () => {
    while (findings.statements < crowdStatements) {
      const index = next++
      const tenant = tenants[(index * 7) % tenants.length] as Tenant
      const wall = { tenantId: tenant.tenantId, userId: users[Math.floor(index / 11) % users.length] ?? null }
      try {
        await operations(index)(tenant, wall)
      } catch (error) {
        if (!isBroken(error)) throw error
        findings.broken++
      }
    }
  }
  await Promise.all(Array.from({ length: 40 }, caller))
  return findings
}

type Operation = (tenant: Tenant, wall: Wall) => Promise<void>
type Connection = { query(config: { text: string; values?: unknown[] }): Promise<pg.QueryResult>; release(): void }

function operationsOn(pool: TenantPool, tenants: Tenant[], adminUrl: string, findings: Findings): (index: number) => Operation {
  const nameOf = pool.namedStatements ? statementNames() : () => undefined
  const statement = (text: string, values: unknown[] = []) => {
    findings.statements++
    return { text, values, name: nameOf({ sql: text }) }
  }
  const send = (wall: Wall, text: string, values?: unknown[], shortRead = false): Promise<pg.QueryResult> =>
    pool.within({ ...wall, shortRead }, () => pool.query(statement(text, values)))
  const sendShared = (wall: Wall, text: string) => send(wall, text, [], true)
  const check = (wall: Wall, { rows }: pg.QueryResult, count = wall.userId === null ? users.length : 1) => {
    const own = (row: Record<string, string>) =>
      row['tenant_id'] === wall.tenantId &&
      row['tenant'] === wall.tenantId &&
      row['user'] === (wall.userId ?? '') &&
      (wall.userId === null || row['user_id'] === wall.userId)
    if (rows.length === count && rows.every(own)) return
    findings.leaks.push(`${wall.tenantId} ${wall.userId} saw ${JSON.stringify(rows)}`)
  }
  const checkRefused = async (code: string, sent: Promise<unknown>) => {
    const outcome = await sent.then(
      () => 'accepted',
      (error) => {
        if (isBroken(error)) throw error
        return error.code ?? error.message
      },
    )
    if (outcome !== code) findings.leaks.push(`instead of ${code}: ${outcome}`)
  }
  /** The connection comes back as `work` leaves it. */
  const transact = async (wall: Wall, work: (connection: Connection) => Promise<void>) => {
    const connection = (await pool.within({ ...wall, shortRead: false }, () => pool.connect())) as unknown as Connection
    try {
      await connection.query({ text: 'BEGIN' })
      await work({ query: ({ text, values }) => connection.query(statement(text, values)), release: connection.release })
    } finally {
      connection.release()
    }
  }
  const other = (tenant: Tenant) => tenants[(tenants.indexOf(tenant) + 1) % tenants.length] as Tenant
  const touch = `update conversations set updated_at = now() where id = any($1)
                 returning tenant_id, user_id, current_setting('app.current_tenant') as tenant, current_setting('app.current_user') as user`
  const insert = 'insert into conversations (id, tenant_id, agent_id, user_id) values ($1, $2, $3, $4)'
  /** The wall's own conversation and the same user's in another tenant. */
  const ids = (tenant: Tenant, wall: Wall) => [tenant, other(tenant)].map(({ conversations }) => conversations.get(wall.userId))

  const readShared: Operation = async (_, wall) => check(wall, await sendShared(wall, read))
  const usual: Operation[] = [
    readShared,
    async (_, wall) => check(wall, await send(wall, read)),
    readShared,
    async (tenant, wall) => check(wall, await send(wall, touch, [ids(tenant, wall)]), 1),
    (_, wall) => checkRefused('22012', sendShared(wall, 'select 1 / 0')),
    (tenant, wall) => checkRefused('42501', send(wall, insert, [newId(), other(tenant).tenantId, tenant.agentId, wall.userId])),
    readShared,
    (tenant, wall) =>
      transact(wall, async (connection) => {
        check(wall, await connection.query({ text: read }))
        check(wall, await connection.query({ text: touch, values: [ids(tenant, wall)] }), 1)
        check(wall, await connection.query({ text: read }))
        await connection.query({ text: 'COMMIT' })
      }),
    (tenant, wall) =>
      transact(wall, async (connection) => {
        await connection.query({ text: insert, values: [newId(), wall.tenantId, tenant.agentId, wall.userId] })
        await connection.query({ text: 'ROLLBACK' })
      }),
    readShared,
    (_, wall) =>
      transact(wall, async (connection) => {
        check(wall, await connection.query({ text: read }))
        await checkRefused('22012', connection.query({ text: 'select 1 / 0' }))
        await connection.query({ text: 'ROLLBACK' })
      }),
  ]
  const stopped: Operation = (_, wall) =>
    transact(wall, async (connection) => {
      await connection.query({ text: 'SET LOCAL statement_timeout = 20' })
      await checkRefused('57014', connection.query({ text: 'select pg_sleep(30)' }))
      await connection.query({ text: 'ROLLBACK' })
    })
  const abandoned: Operation = (_, wall) =>
    transact(wall, async (connection) => check(wall, await connection.query({ text: read })))
  const stoppedShared: Operation = (_, wall) => checkRefused('57014', sendShared(wall, 'select pg_sleep(30)'))
  const terminate = ({ rows }: pg.QueryResult) => adminQuery(adminUrl, `select pg_terminate_backend(${rows[0].pid})`)
  const terminated: Operation = (_, wall) =>
    transact(wall, async (connection) => {
      await terminate(await connection.query({ text: 'select pg_backend_pid() as pid' }))
      await connection.query({ text: read })
      findings.leaks.push('a terminated transaction went on')
    })
  const terminatedShared: Operation = async (_, wall) => terminate(await sendShared(wall, 'select pg_backend_pid() as pid'))

  const rare = [stoppedShared, terminated, terminatedShared]
  const rareEvery = Math.max(Math.floor(crowdStatements / 12), 100)
  return (index) => {
    if (index % rareEvery === rareEvery - 1) return rare[Math.floor(index / rareEvery) % rare.length] as Operation
    if (index % 400 === 200) return stopped
    if (index % 400 === 0) return abandoned
    return usual[index % usual.length] as Operation
  }
}

/** Whether the connection failed rather than the statement. */
function isBroken(error: unknown): boolean {
  if (error instanceof pg.DatabaseError) return error.severity === 'FATAL'
  return error instanceof Error && /terminated|not queryable|ECONNRESET|EPIPE/.test(error.message)
}
