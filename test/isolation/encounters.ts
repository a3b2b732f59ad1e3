import { randomBytes } from 'node:crypto'
import pg from 'pg'
import { userModels } from '../../src/data/tenant-filter.ts'
import { formatApiKey, hashSecret, newSecret } from '../../src/domain/credential.ts'
import { newId, tenantIdOf } from '../../src/domain/ids.ts'
import type { RoleName } from '../../src/schema/role.ts'
import { operatorKey } from '../support/operator.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'
import { idempotencyKey, idOf, modelOf } from './arguments.ts'
import { insertRows } from './insert-rows.ts'
import { operations, typesWithId } from './operations.ts'
import { hashOf, type Party, price, type Row, type Rows, rowOf, spareAgent, tenantParty, userParty } from './rows.ts'
import { type StoredRow, tenantTables } from './world.ts'

/** Two parties that never met: one acts by keys of its own, the other has what the first must not learn. */
export type Encounter = {
  own: Party
  other: Party
  keys: Record<RoleName, string>
  /** Models whose rows are parted between the two. */
  parted: readonly string[]
  /** Texts and ids that must not be in an answer to the role. */
  hiddenFrom(role: RoleName): readonly string[]
}

/** A pair of parties to make an encounter of, and the roles in which the first acts. */
export type Between = { title: string; tags: string[]; callers: readonly RoleName[]; make: () => Cast }

/** `more` is what the other party has besides one row of each model. */
type Cast = { own: Party; other: Party; more: Party[]; parted: readonly string[]; rows: Rows[] }

export const betweens: readonly Between[] = [
  { title: 'two tenants', tags: [], callers: ['ADMIN', 'MEMBER', 'END_USER', 'OPERATOR'], make: twoTenants },
  { title: 'two end users of one tenant', tags: ['rule-18'], callers: ['END_USER'], make: twoUsers },
  { title: "an end user and the tenant's staff", tags: ['rule-18'], callers: ['END_USER'], make: userAndStaff },
]

/** A platform on which parties meet. */
export type MeetingPlace = {
  platform: TestPlatform
  /** Two new parties, with keys to every role of the first. */
  meet(between: Between): Promise<Encounter>
  /** The other party's rows, as the superuser sees them. */
  rowsOfOther(encounter: Encounter): Promise<StoredRow[]>
  close(): Promise<void>
}

/** What operators wrote themselves. */
const ofOperators: ReadonlySet<string> = new Set(['Tenant', 'TenantPrice', 'Credit'])

export async function openMeetingPlace(): Promise<MeetingPlace> {
  // All fields at once are more than a client may ask for.
  const unlimited = { tokens: 1e6, fields: 1e6, cost: 1e9 }
  const platform = await startTestPlatform({ limits: unlimited })
  const { database, settings, ports } = platform.story
  const { adminUrl } = database
  const admin = new pg.Client({ connectionString: adminUrl })
  await admin.connect()
  await insertRows(admin, [{ Price: price }])
  const tables = await tenantTables(admin)
  const operator = await operatorKey(platform.story)
  const ofEach = tables.map((table) => {
    const column = table === 'tenants' ? 'id' : 'tenant_id'
    return `select '${table}' as table, to_jsonb(t) as row from ${table} t where ${column} = $1::uuid`
  })
  // Asked around each call. Under a name it is planned once.
  const rowsOfTenant = { name: 'rows of a tenant', text: `${ofEach.join(' union all ')} order by 1, 2` }

  return {
    platform,
    async meet({ make }) {
      const { own, other, more, parted, rows } = make()
      const { keys, row: keyRows } = keysOf(own, settings.peppers)
      const dataKey = { ...rowOf(own, 'DataKey'), ...(await ports.vault.createKey(tenantIdOf(own.wall.tenantId))) }
      await insertRows(admin, [...rows, ...keyRows, { DataKey: dataKey }])
      const content = Object.keys(own.rows).filter((model) => !ofOperators.has(model))
      const hidden = [other, ...more].flatMap((party) => tracesOf(party, parted))
      const fromOperators = [own, other, ...more].flatMap((party) => tracesOf(party, content))
      return {
        own,
        other,
        parted,
        keys: { ...keys, OPERATOR: operator },
        hiddenFrom: (role) => (role === 'OPERATOR' ? fromOperators : hidden),
      }
    },
    async rowsOfOther({ own, other }) {
      const { tenantId, userId } = other.wall
      const { rows } = await admin.query<StoredRow>({ ...rowsOfTenant, values: [tenantId] })
      if (own.wall.tenantId !== tenantId) return rows
      return rows.filter(({ row }) => 'user_id' in row && row['user_id'] === userId)
    },
    async close() {
      await admin.end()
      await platform.stop()
    },
  }
}

function twoTenants(): Cast {
  const own = workable(marked(tenantParty('OwnCanary')))
  const other = cancellable(marked(tenantParty('OtherCanary')))
  const twin = namesake(own, other)
  const rows = [own.rows, spareAgent(own), other.rows, twin.rows, ...sameCalls(own, twin)]
  return { own, other, more: [twin], parted: Object.keys(other.rows), rows }
}

function twoUsers(): Cast {
  const { own, user, rows } = tenantOfUsers()
  return { own, other: user, more: [], parted: [...userModels], rows }
}

function userAndStaff(): Cast {
  const { own, staff, rows } = tenantOfUsers()
  return { own, other: staff, more: [], parted: ['Conversation', 'Message', 'Run'], rows }
}

/** A tenant with content of its staff and of two end users. */
function tenantOfUsers() {
  const tenant = cancellable(workable(marked(tenantParty('StaffCanary'))))
  const unowned = (model: string) => ({ [model]: { ...rowOf(tenant, model), userId: null } })
  const staff = { ...tenant, rows: { ...tenant.rows, ...unowned('Conversation'), ...unowned('Run'), ...unowned('Message') } }
  const own = workable(userParty(staff, 'OwnCanary'))
  const user = cancellable(userParty(staff, 'OtherCanary'))
  const content = ({ rows }: Party) => Object.fromEntries(Object.entries(rows).filter(([model]) => userModels.has(model)))
  return { own, user, staff, rows: [staff.rows, content(own), content(user)] }
}

/** The party's canary in each column says which column it is, so that none is a part of another. A user has one id everywhere. */
function marked(party: Party): Party {
  const rows = Object.entries(party.rows).map(([model, row]) => {
    const markOf = (column: string) => (column === 'userId' ? '-user' : `-${model}-${column}`)
    const columns = Object.entries(row).map(([column, value]) => {
      return [column, withTexts(value, (text) => (text === party.canary ? text + markOf(column) : text))]
    })
    return [model, Object.fromEntries(columns)]
  })
  const named = withRow({ ...party, rows: Object.fromEntries(rows) }, 'Tenant', {
    name: `${party.canary}-Tenant-name-${randomBytes(4).toString('hex')}`,
  })
  const argumentsHash = hashOf(String(rowOf(named, 'ToolCall')['arguments']))
  return withRow(named, 'ToolCall', { argumentsHash })
}

/** The party can act on its things: its run waits for budget, its configuration is in use, its archive can be fetched, its model call corrected. */
function workable(party: Party): Party {
  const { createdAt } = rowOf(party, 'Run')
  const fetchable = withRow(party, 'TenantExport', { expiresAt: new Date('2100-01-01') })
  const paused = withRow(fetchable, 'Run', {
    ...{ status: 'PAUSED_BUDGET', epoch: 1, finishedAt: null, resumeAt: createdAt, turns: [] },
  })
  // Operators see which models were called, and what that costs.
  const charged = { currency: 'USD', model: 'gpt-4o' }
  const credited = withRow(paused, 'Credit', { currency: 'USD' })
  const summed = withRow(credited, 'UsageRollup', charged)
  const metered = withRow(summed, 'UsageRecord', { ...charged, correction: 0, correctsId: null })
  return withRow(metered, 'AgentConfig', { status: 'PUBLISHED', publishedAt: createdAt, enabledTools: [] })
}

/** The party's run could be cancelled by whoever reaches it, and is taken by no worker. */
function cancellable(party: Party): Party {
  const { expiresAt } = rowOf(party, 'ToolCall')
  return withRow(party, 'Run', { status: 'WAITING_APPROVAL', finishedAt: null, queuedAt: expiresAt, resumeAt: expiresAt })
}

function withRow(party: Party, model: string, change: Row): Party {
  return { ...party, rows: { ...party.rows, [model]: { ...rowOf(party, model), ...change } } }
}

/** Rows of the other tenant that are called as one's own are. */
function namesake(own: Party, { wall, canary }: Party): Party {
  const ids = new Map(Object.values(own.rows).map(({ id }) => [id, newId()]))
  ids.set(own.wall.tenantId, wall.tenantId)
  // A tenant has one override of each limit, and one first part of a quarter.
  const { Tenant: _tenant, QuotaOverride: _override, UsageRollup: _rollup, ...rows } = own.rows
  return { wall, canary, rows: withTexts(rows, (text) => ids.get(text) ?? text) as Rows }
}

/** What the other tenant has done as if it were oneself, under one's idempotency key: every mutation. */
function sameCalls(own: Party, twin: Party): Rows[] {
  const [actor, resultId] = [rowOf(own, 'ApiKey')['id'], rowOf(twin, 'Conversation')['id']]
  const call = { ...rowOf(twin, 'IdempotencyKey'), actor, key: idempotencyKey, resultId }
  const mutations = operations.filter(({ kind }) => kind === 'mutation')
  return mutations.map(({ name }) => ({ IdempotencyKey: { ...call, mutation: name } }))
}

/** Keys to each role in the party's tenant, its own API key being that of the admin. */
function keysOf(own: Party, peppers: Parameters<typeof hashSecret>[1]) {
  const { tenantId } = own.wall
  const row = { ...rowOf(own, 'ApiKey'), expiresAt: null, revokedAt: null }
  const issue = (role: RoleName, change: Row) => {
    const secret = newSecret()
    const stored: Row = { ...row, role, userId: null, ...hashSecret(secret, peppers), ...change }
    return { stored, key: formatApiKey({ kind: 'tenant', tenantId, id: String(stored['id']), secret }) }
  }
  const admin = issue('ADMIN', {})
  const member = issue('MEMBER', { id: newId() })
  const endUser = issue('END_USER', { id: newId(), userId: rowOf(own, 'Conversation')['userId'] })
  return {
    keys: { ADMIN: admin.key, MEMBER: member.key, END_USER: endUser.key },
    row: [admin, member, endUser].map(({ stored }) => ({ ApiKey: stored })),
  }
}

/** What tells of the party's rows of these models: its canaries, bytes in two spellings, and ids in both of their forms. */
function tracesOf(party: Party, models: readonly string[]): string[] {
  const traces: string[] = []
  for (const model of models.filter((each) => party.rows[each])) {
    const row = rowOf(party, model)
    withTexts(row, (text) => {
      if (text.includes(party.canary)) traces.push(text)
      return text
    })
    for (const value of Object.values(row)) {
      if (value instanceof Buffer && String(value).includes(party.canary))
        traces.push(value.toString('base64'), value.toString('hex'))
    }
    if (row['id']) traces.push(String(row['id']))
    traces.push(...typesWithId.filter((type) => modelOf(type) === model).map((type) => idOf(party, type)))
  }
  return traces
}

/** The value with every text in it replaced. */
function withTexts(value: unknown, replace: (text: string) => string): unknown {
  if (typeof value === 'string') return replace(value)
  if (Array.isArray(value)) return value.map((part) => withTexts(part, replace))
  if (typeof value !== 'object' || value === null || value instanceof Date || value instanceof Uint8Array) return value
  return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, withTexts(part, replace)]))
}
