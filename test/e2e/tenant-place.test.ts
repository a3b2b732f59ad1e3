import { rm } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { decodeId } from '../../src/schema/global-id.ts'
import { followRun, sendMessage, shownText } from '../support/agent-reply.ts'
import { seedAccounts } from '../support/demo-accounts.ts'
import { type GraphQLClient, graphqlClient } from '../support/graphql-client.ts'
import { liftLimits } from '../support/limits.ts'
import { type PlatformProcess, startPlatformProcess } from '../support/platform-process.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { makeScratchDirectory } from '../support/scratch.ts'
import { addConversations, rowsOf, selectRows } from '../support/tenant-rows.ts'

type Keys = { name: string; adminKey: string; memberKey: string }

let database: TestDatabase
let own: TestDatabase
let dataDir: string
let env: Record<string, string>
let tenants: Keys[]

beforeAll(async () => {
  ;[database, own, dataDir] = await Promise.all([
    createTestDatabase(),
    createTestDatabase({ empty: true }),
    makeScratchDirectory('bulkhead-e2e-'),
  ])
  env = { DATABASE_URL: database.appUrl, DATABASE_PLATFORM_URL: database.platformUrl, BULKHEAD_DATA_DIR: dataDir }
  const seeded = await seedAccounts(env)
  tenants = seeded.tenants
  await liftLimits(database)
}, 60_000)

afterAll(async () => {
  await Promise.all([database.drop(), own.drop()])
  await rm(dataDir, { recursive: true, force: true })
})

function place(...args: string[]): PlatformProcess {
  return startPlatformProcess(env, ['tenant', 'place', ...args])
}

async function idOf(name: string): Promise<string> {
  const [row] = await selectRows(database, `select id from tenants where name = '${name}'`)
  return row?.['id'] as string
}

/** The move's record and the tenant's row in the catalogue. */
async function stateOf(name: string) {
  const [state] = await selectRows(
    database,
    `select t.status, t.database_id is not null as "isElsewhere", t.fenced_at is not null as "isFenced", m.phase
     from tenants t left join tenant_moves m on m.id = t.id where t.name = '${name}'`,
  )
  return state
}

/** Kills the command once it has said `line`, a moment later. */
async function killAt(command: PlatformProcess, line: RegExp, after: number): Promise<void> {
  let ended = false
  void command.exited.then(() => {
    ended = true
  })
  while (!line.test(command.errors())) {
    if (ended) throw new Error(`It ended before it came to ${line}: ${command.errors()}`)
    await delay(5)
  }
  await delay(after)
  await command.stop('SIGKILL')
}

describe('the command', { timeout: 60_000 }, () => {
  it('ends in one line when it cannot do what it is told', async () => {
    const refused = async (command: PlatformProcess) => {
      expect(await command.exited).toBe(1)
      return command.errors().trim().split('\n').at(-1)
    }
    const embedded = startPlatformProcess({ BULKHEAD_DATA_DIR: dataDir }, ['tenant', 'place', 'acme', '--pooled'])
    expect(
      await Promise.all([
        ...[place('acme', '--pooled', '--abort'), place('acme', '--abort')].map(refused),
        ...[place('acme', '--database', 'mysql://root@db/acme'), embedded].map(refused),
      ]),
    ).toEqual([
      'bulkhead: Say where to: one of --database <url>, --pooled and --abort.',
      'bulkhead: acme is not being moved. There is nothing to undo.',
      "bulkhead: --database must be an administrator's URL that starts with postgres:// or postgresql://.",
      'bulkhead: DATABASE_URL is not set. Tenants of the embedded database cannot be moved out of it.',
    ])
  })
})

describe('a move that is killed', { timeout: 240_000 }, () => {
  /** What the command says from its first line to its last, also when it was killed before. */
  const moments = [
    /applying migration .*isolation/,
    /moving acme/,
    /(draining|going on)/,
    /copying agents/,
    /copying conversations/,
    /copied and verified/,
    /switched/,
    /deleting the rows/,
  ]

  it('at any moment goes on when it is repeated, there and back, and nothing of the tenant or its neighbour changes', async () => {
    const acme = await idOf('acme')
    const globex = await idOf('globex')
    await addConversations(database, acme, 800)
    const before = await rowsOf(database, acme)
    const neighbour = await rowsOf(database, globex)

    for (const moment of moments) await killAt(place('acme', '--database', own.adminUrl), moment, Math.random() * 30)
    const there = place('acme', '--database', own.adminUrl)
    expect(await there.exited, there.errors()).toBe(0)
    expect(await stateOf('acme')).toEqual({ status: 'ACTIVE', isElsewhere: true, isFenced: true, phase: 'DONE' })
    expect(await rowsOf(own, acme)).toEqual(before)
    expect(Object.values(await rowsOf(database, acme)).flat()).toEqual([])

    for (const moment of [/(draining|going on)/, /copying conversations/, /copied and verified/, /switched/]) {
      await killAt(place('acme', '--pooled'), moment, Math.random() * 30)
    }
    const back = place('acme', '--pooled')
    expect(await back.exited, back.errors()).toBe(0)
    expect(await stateOf('acme')).toEqual({ status: 'ACTIVE', isElsewhere: false, isFenced: false, phase: 'DONE' })
    expect(await rowsOf(database, acme)).toEqual(before)
    expect(Object.values(await rowsOf(own, acme)).flat()).toEqual([])
    expect(await rowsOf(database, globex)).toEqual(neighbour)
    expect(await selectRows(database, 'select name from databases')).toEqual([])
  })
})

describe('a move under load', { timeout: 120_000 }, () => {
  /** What one person says, one message after the other, while the tenant moves. */
  async function converse(client: GraphQLClient, stopped: () => boolean) {
    const acknowledged: string[] = []
    const runs: string[] = []
    const refusals: unknown[] = []
    const { conversationId } = await sendMessage(client, 'Hello')
    for (let index = 0; !stopped(); index++) {
      const content = `message ${index} of ${conversationId}`
      const answer = await client.request<{ sendMessage: { run?: { id: string }; message?: string } }>(
        `mutation ($input: SendMessageInput!) {
          sendMessage(input: $input) { ... on SendMessagePayload { run { id } } ... on Problem { message } }
        }`,
        { input: { conversationId, content } },
      )
      const runId = answer.data?.sendMessage?.run?.id
      if (runId === undefined) {
        refusals.push(answer.errors?.[0]?.extensions ?? answer.data)
        await delay(100)
        continue
      }
      acknowledged.push(content)
      runs.push(runId)
      const events = []
      for await (const event of followRun(client, runId)) events.push(event)
      const last = events.at(-1)
      expect(last?.__typename).toBe('RunCompleted')
      expect(shownText(events)).toBe(last?.message?.content)
    }
    return { acknowledged, runs, refusals }
  }

  it('loses and doubles nothing that was acknowledged; its clients are told when to come back, its neighbours nothing', async () => {
    const platform = startPlatformProcess(env)
    const url = await platform.url
    const clients = tenants.map(({ memberKey }) => graphqlClient(url, memberKey))
    const [acme, globex] = clients as [GraphQLClient, GraphQLClient]
    let moved = false
    const people = Promise.all([...Array.from({ length: 4 }, () => converse(acme, () => moved)), converse(globex, () => moved)])
    await delay(1_000)
    for (const to of [['--database', own.adminUrl], ['--pooled']]) {
      const command = place('acme', ...to)
      expect(await command.exited, command.errors()).toBe(0)
      await delay(1_500)
    }
    moved = true
    const said = await people

    const [neighbour] = said.splice(-1)
    expect(neighbour?.refusals).toEqual([])
    expect(neighbour?.acknowledged.length).toBeGreaterThan(3)
    for (const { acknowledged, runs, refusals } of said) {
      expect(acknowledged.length).toBeGreaterThan(3)
      for (const refusal of refusals) {
        expect(refusal).toEqual({ code: 'SERVICE_UNAVAILABLE', retryAfterSeconds: expect.any(Number) })
      }
      const list = acknowledged.map((text) => `'${text}'`).join(', ')
      const stored = await selectRows(
        database,
        `select content, count(*)::int as times from messages where content in (${list}) group by 1`,
      )
      expect(stored.filter(({ times }) => times !== 1)).toEqual([])
      expect(stored.length).toBe(acknowledged.length)
      const ids = runs.map((id) => `'${decodeId('Run', id)}'`).join(', ')
      const ends = await selectRows(database, `select status, count(*)::int as runs from runs where id in (${ids}) group by 1`)
      expect(ends).toEqual([{ status: 'COMPLETED', runs: runs.length }])
    }
    expect(said.flatMap(({ refusals }) => refusals).length).toBeGreaterThan(0)
    await Promise.all(clients.map((client) => client.close()))
    expect(await platform.stop()).toBe(0)
  })
})
