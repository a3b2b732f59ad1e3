import { existsSync } from 'node:fs'
import { chmod, readFile, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { followRun, type ReplyEvent, sendMessage, shownText } from '../support/agent-reply.ts'
import { type GraphQLClient, graphqlClient } from '../support/graphql-client.ts'
import { type PlatformProcess, startPlatformProcess } from '../support/platform-process.ts'
import { makeScratchDirectory } from '../support/scratch.ts'

type Demo = { url: string; operatorKey: string; tenants: { name: string; plan: string; adminKey: string; memberKey: string }[] }

let dataDir: string
let platform: PlatformProcess

beforeAll(async () => {
  dataDir = await makeScratchDirectory('bulkhead-e2e-')
  // Root's Postgres account has to reach into it, or the database lands outside.
  await chmod(dataDir, 0o755)
  platform = startPlatformProcess({ BULKHEAD_DATA_DIR: dataDir })
  await platform.url
}, 60_000)

afterAll(async () => {
  await platform.stop()
  await rm(dataDir, { recursive: true, force: true })
})

async function readDemo(): Promise<Demo> {
  return JSON.parse(await readFile(join(dataDir, 'demo.json'), 'utf8'))
}

async function follow(client: GraphQLClient, runId: string): Promise<ReplyEvent[]> {
  const events: ReplyEvent[] = []
  for await (const event of followRun(client, runId)) events.push(event)
  return events
}

async function setSecret(client: GraphQLClient, name: string): Promise<void> {
  const set = 'mutation ($input: SetSecretInput!) { setSecret(input: $input) { ... on SetSecretPayload { secret { name } } } }'
  expect(await client.data(set, { input: { name, value: 'v' } })).toEqual({ setSecret: { secret: { name } } })
}

describe('two tenants on one platform', () => {
  it('stream at once, and neither sees a byte of the other', async () => {
    const { url, tenants } = await readDemo()
    const canaries = tenants.map(({ name }) => `canary-of-${name}-${Math.random().toString(36).slice(2)}`)
    const clients = tenants.map(({ memberKey }) => graphqlClient(url, memberKey))
    const runs = await Promise.all(clients.map((client, index) => sendMessage(client, `Repeat after me: ${canaries[index]}`)))
    const streams = await Promise.all(clients.map((client, index) => follow(client, runs[index]?.runId ?? '')))

    for (const [index, events] of streams.entries()) {
      const [own, other] = [canaries[index] ?? '', canaries[1 - index] ?? '']
      const [name, otherName] = [tenants[index]?.name ?? '', tenants[1 - index]?.name ?? '']
      const last = events.at(-1)
      expect(last?.__typename).toBe('RunCompleted')
      expect(shownText(events)).toBe(last?.message?.content)
      const everything = JSON.stringify(events).toLowerCase()
      expect(everything).toContain(own)
      expect(everything).toContain(name)
      expect(everything).not.toContain(other)
      expect(everything).not.toContain(otherName)
    }

    for (const [index, client] of clients.entries()) {
      const foreign = runs[1 - index] as (typeof runs)[number]
      const unknown = 'UnVuOjAxOTAwMDAwLTAwMDAtNzAwMC04MDAwLTAwMDAwMDAwMDAwMA'
      const look = (runId: string) =>
        client.request('query ($id: ID!) { run(id: $id) { id } node(id: $id) { id } }', { id: runId })
      expect((await look(foreign.runId)).data).toEqual((await look(unknown)).data)
      await expect(follow(client, foreign.runId)).rejects.toThrow(/NOT_FOUND/)
    }
    await Promise.all(clients.map((client) => client.close()))
  })

  it('keep their keys in a file that only its owner can read, and off the second start', async () => {
    const demo = await readDemo()
    expect((await stat(join(dataDir, 'demo.json'))).mode & 0o777).toBe(0o600)
    expect((await stat(join(dataDir, 'secrets.json'))).mode & 0o777).toBe(0o600)
    expect(demo.tenants.map(({ name, plan }) => [name, plan])).toEqual([
      ['acme', 'PRO'],
      ['globex', 'FREE'],
    ])
    for (const { adminKey, memberKey } of demo.tenants)
      for (const key of [adminKey, memberKey]) expect(platform.output()).toContain(key)
  })

  it('print a start-up text that fits a screen and says that the model is scripted', () => {
    const lines = platform.output().split('\n')
    expect(lines.length).toBeLessThanOrEqual(30)
    expect(platform.output()).toMatch(/scripted/)
  })

  it('are all there after Ctrl-C and a second start', async () => {
    const before = await readDemo()
    const [first] = before.tenants
    const client = graphqlClient(before.url, first?.adminKey ?? '')
    const { conversationId } = await sendMessage(client, 'remember me')
    await setSecret(client, 'before')
    await client.close()

    // Twice: npm passes on the Ctrl-C that the terminal has sent to the platform too.
    const stopped = platform.stop('SIGINT')
    await delay(20)
    await platform.stop('SIGINT')
    expect(await stopped).toBe(0)
    expect(existsSync(join(dataDir, 'postgres/PG_VERSION'))).toBe(true)
    expect(existsSync(join(dataDir, 'postgres/postmaster.pid'))).toBe(false)
    expect(platform.errors()).toMatch(/^starting the database\n(applying migration \w+\n)+$/)

    platform = startPlatformProcess({ BULKHEAD_DATA_DIR: dataDir })
    const url = await platform.url
    const again = graphqlClient(url, first?.adminKey ?? '')
    const { conversation } = await again.data<{ conversation: { id: string } | null }>(
      'query ($id: ID!) { conversation(id: $id) { id } }',
      { id: conversationId },
    )
    expect(conversation).toEqual({ id: conversationId })
    // Encrypted under the same data key, so it could be unwrapped.
    await setSecret(again, 'after')
    expect(platform.output()).not.toContain(first?.adminKey)
    expect(platform.output()).toContain(`Keys    in ${join(dataDir, 'demo.json')}`)
    expect(platform.output()).toContain(`kept in ${join(dataDir, 'postgres')}`)
    expect((await readDemo()).url).toBe(url)
    await again.close()
  }, 60_000)
})

describe('a start that fails', () => {
  it('says which port is in use, and leaves no server behind', async () => {
    const scratch = await makeScratchDirectory('bulkhead-e2e-')
    await chmod(scratch, 0o755)
    const process = startPlatformProcess({ BULKHEAD_DATA_DIR: scratch, PORT: new URL((await readDemo()).url).port })
    expect(await process.exited).toBe(1)
    expect(process.errors()).toMatch(/\nbulkhead: Port \d+ of 127\.0\.0\.1 is in use\. .+ set PORT .+\n$/)
    expect(process.errors()).not.toContain('{')
    expect(existsSync(join(scratch, 'postgres/postmaster.pid'))).toBe(false)
    await rm(scratch, { recursive: true, force: true })
  }, 60_000)
})

describe('a wrong configuration', () => {
  it.each([
    [{ PORT: 'abc' }, /^bulkhead: PORT must be a whole number/],
    [{ BULKHEAD_PROT: '1' }, /^bulkhead: BULKHEAD_PROT is not a setting/],
    [{ NODE_ENV: 'production' }, /^bulkhead: DATABASE_URL is not set/],
    [{ DATABASE_URL: 'postgres://bulkhead_app:x@127.0.0.1:1/none' }, /^bulkhead: The database cannot be reached/],
    [
      {},
      /^bulkhead: There is no Bulkhead at http:\/\/127\.0\.0\.1:1\./,
      ['ask', '--key', 'x', '--url', 'http://127.0.0.1:1', 'hi'],
    ],
  ])(
    '%j ends in one line',
    async (env, line, args = ['start']) => {
      const scratch = await makeScratchDirectory('bulkhead-e2e-')
      const process = startPlatformProcess({ BULKHEAD_DATA_DIR: scratch, ...env }, args)
      expect(await process.exited).toBe(1)
      expect(process.errors()).toMatch(line)
      expect(process.errors().trim().split('\n')).toHaveLength(1)
      expect(process.output()).toBe('')
      await rm(scratch, { recursive: true, force: true })
    },
    30_000,
  )
})
