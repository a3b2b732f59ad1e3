// @module-tag rule-7
import pg from 'pg'
import pino from 'pino'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { formatApiKey, hashSecret, newSecret } from '../../src/domain/credential.ts'
import { newId, tenantIdOf } from '../../src/domain/ids.ts'
import { createServer, type Server } from '../../src/server/server.ts'
import { operatorKey } from '../support/operator.ts'
import { type Story, startStory } from '../support/story.ts'
import { validVariables } from './arguments.ts'
import { type ArgumentPlace, documentOf, type Operation, operations, withValue } from './operations.ts'
import { type Party, tenantParty } from './rows.ts'
import { isRefused, overHttp, overWebSocket } from './transports.ts'
import { tried } from './tried.ts'
import { seed, tenantTables } from './world.ts'

const [own, other] = [tenantParty('own-canary'), tenantParty('other-canary')]
/** Whom operators try things on, such as erasing it. */
const spare = tenantParty('spare-canary')

/** What would do something if any input became part of a statement, by each way that it could be quoted there. */
const injections = [
  `'; select set_config('app.current_tenant', '${other.wall.tenantId}', false); --`,
  `'; select set_config('app.current_tenant', '${other.wall.tenantId}', true) || content from messages; --`,
  `' or true --`,
  `') union all select to_jsonb(m)::text from messages m --`,
  `"; drop table messages; --`,
  `\\'; delete from conversations; --`,
  `$$; reset role; select 1; $$`,
  `$1`,
  '%',
  `{"not": "${own.wall.tenantId}"}`,
  `${other.wall.tenantId}`,
  '\u0000',
  '\ud800',
]

/** The operations that were tried as the tenant's admin, who may make them. */
const ofAdmins = new Set<string>()

/**
 * What takes no text takes none of them, ids and cursors are decoded first, and what a tenant's admin tried takes them the same from an
 * operator: a few show that.
 */
function injectionsInto(operation: Operation, { name, type }: ArgumentPlace, isOperator: boolean): readonly string[] {
  if (!['String', 'ID', 'JSONObject'].includes(type.name)) return injections.slice(0, 2)
  if (isOperator && ofAdmins.has(operation.name)) return injections.slice(0, 4)
  return type.name === 'ID' || name === 'after' ? injections.filter((_, index) => index % 3 === 0) : injections
}

let story: Story
let server: Server
let admin: pg.Client
let url: string
let tables: string[]

beforeAll(async () => {
  story = await startStory()
  await seed(story.database.adminUrl, [own, other, spare])
  admin = new pg.Client({ connectionString: story.database.adminUrl })
  await admin.connect()
  tables = await tenantTables(admin)
  // These rows hold their canary and no key. The next secret gets a real one.
  await admin.query('delete from webhooks')
  await admin.query('delete from secrets')
  await admin.query('delete from data_keys')
  server = createServer({
    authenticate: story.authenticate,
    signals: story.ports.signals,
    accessVersions: (tenantIds) => story.catalog.tenants.accessVersions(tenantIds),
    logger: pino({ level: 'silent' }),
    development: true,
    isReady: async () => true,
  })
  url = (await server.listen(0, '127.0.0.1')).url
})

afterAll(async () => {
  await server.close(1_000)
  await admin.end()
  await story.close()
})

async function newKey({ wall }: Party): Promise<string> {
  const [id, secret, tenantId] = [newId(), newSecret(), tenantIdOf(wall.tenantId)]
  const hash = hashSecret(secret, story.settings.peppers)
  await story.data.of(wall).apiKey.create({ data: { id, tenantId, name: 'fuzz', role: 'ADMIN', ...hash } })
  return formatApiKey({ kind: 'tenant', tenantId, id, secret })
}

/** Every row of the other tenant, as the superuser sees them. */
async function othersRows(): Promise<string> {
  const each = tables.map(
    (table) => `select '${table}' as table, to_jsonb(t) as row from ${table} t
                where ${table === 'tenants' ? 'id' : 'tenant_id'} = '${other.wall.tenantId}'`,
  )
  return JSON.stringify((await admin.query(`select * from (${each.join(' union all ')}) every order by every::text`)).rows)
}

it('there are inputs to try', () => {
  const places = operations.flatMap((operation) => operation.places.map(({ coordinate }) => coordinate))
  expect(places).toEqual(expect.arrayContaining(['SendMessageInput.content', 'Query.conversations(after:)', 'Query.node(id:)']))
})

// What takes nothing has no input.
describe.each(operations.filter(({ places }) => places.length > 0))('$kind $name', (operation) => {
  it.for([
    { who: 'an admin', isOperator: false, party: own, keyOf: () => newKey(own) },
    { who: 'an operator', isOperator: true, party: spare, keyOf: () => operatorKey(story) },
  ])('takes every input of $who as a value, and none as SQL', async ({ party, isOperator, keyOf }, { task }) => {
    const [key, before] = [await keyOf(), await othersRows()]
    const leaks: string[] = []
    let cases = 0
    for (const place of operation.places) {
      for (const injection of injectionsInto(operation, place, isOperator)) {
        const value = place.type.name === 'JSONObject' ? { [injection]: injection, nested: [injection] } : injection
        const variables = withValue(validVariables(operation, party, 'every'), place, value)
        const query = documentOf(operation, 2)
        const ask = operation.kind === 'subscription' ? overWebSocket : overHttp
        const answer = await ask({ url, key, query, variables })
        const { shown } = answer
        cases += 1
        if (/"INTERNAL"/.test(shown) || shown.includes(other.canary)) leaks.push(`${place.coordinate}: ${injection}: ${shown}`)
        // Who may not ask at all is refused whatever the input is.
        if (isRefused(operation.name, answer)) break
        if (!isOperator) ofAdmins.add(operation.name)
      }
    }
    if ((await othersRows()) !== before) leaks.push(`${operation.name} changed rows of the other.`)
    tried(task, { cases, leaks: leaks.length })
    expect(leaks).toEqual([])
  })
})

it.for(['authorization', 'last-event-id', 'origin', 'x-forwarded-for', 'accept-language'])(
  'so is the header %s',
  async (header, { task }) => {
    const key = await newKey(own)
    const before = await othersRows()
    const printable = injections.filter((injection) => /^[ -~]*$/.test(injection))
    const answers = []
    for (const injection of printable) {
      for (const value of [injection, `Bearer ${injection}`, `Bearer ${key}${injection}`]) {
        const response = await fetch(`${url}/graphql`, {
          method: 'POST',
          headers: { 'content-type': 'application/json', authorization: `Bearer ${key}`, [header]: value },
          body: JSON.stringify({ query: '{ viewer { tenant { name } } conversations { edges { node { title } } } }' }),
        })
        answers.push(await response.text())
      }
    }
    const leaks = answers.filter((answer) => /"INTERNAL"/.test(answer) || answer.includes(other.canary))
    tried(task, { cases: answers.length, leaks: leaks.length })
    expect(leaks).toEqual([])
    expect(await othersRows()).toBe(before)
  },
)

it('whatever it was, the tenant sees its own afterwards', async () => {
  const answer = await overHttp({ url, key: await newKey(own), query: '{ viewer { tenant { name } } }', variables: {} })
  expect(answer.results).toEqual([{ data: { viewer: { tenant: { name: own.canary } } } }])
  expect(await story.data.of(own.wall).tenant.findMany({ select: { id: true } })).toEqual([{ id: own.wall.tenantId }])
})
