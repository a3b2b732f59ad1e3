// @module-tag rule-15
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { updateAgentConfig } from '../../src/domain/agent-config.ts'
import { listAuditEvents } from '../../src/domain/audit.ts'
import { ValidationProblem } from '../../src/domain/errors.ts'
import type { ModelMessage } from '../../src/domain/ports.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { deleteSecret, setSecret } from '../../src/domain/secret.ts'
import { createTool, deleteTool, updateTool } from '../../src/domain/tool.ts'
import { createToolbox } from '../../src/tools/toolbox.ts'
import { type EverythingServer, startEverythingServer } from '../support/everything-server.ts'
import { startMcpServer, type TestMcpServer } from '../support/mcp-server.ts'
import { ask, follow, startWorker } from '../support/run-story.ts'
import { callsTools, says, scriptedModel } from '../support/scripted-model.ts'
import { type Story, startStory } from '../support/story.ts'
import { localEgress } from '../support/tool-maker.ts'
import { startWebhookReceiver, type WebhookReceiver } from '../support/webhook-receiver.ts'

/** Servers of two tenants, one for HTTP and one for MCP each. */
let servers: { http: WebhookReceiver; mcp: TestMcpServer }[]
let story: Story

beforeAll(async () => {
  servers = await Promise.all(
    ['acme', 'globex'].map(async (name) => ({ http: await startWebhookReceiver(), mcp: await startMcpServer(crmOf(name)) })),
  )
  story = await startStory({
    poolSize: 20,
    ports: { egress: localEgress(servers.flatMap(({ http, mcp }) => [http.port, mcp.port])) },
  })
})

beforeEach(() => {
  for (const [index, { http, mcp }] of servers.entries()) {
    http.calls = []
    mcp.requests = []
    http.answer = ({ path, headers }, response) =>
      void response.end(JSON.stringify({ ordersOf: index, path, sent: headers['authorization'] }))
  }
})

afterAll(async () => {
  await story.close()
  await Promise.all(servers.flatMap(({ http, mcp }) => [http.close(), mcp.close()]))
})

const crmOf = (owner: string) => (mcp: Parameters<TestMcpServer['register']>[0]) =>
  void mcp.registerTool(
    'find',
    { description: 'Finds a customer.', inputSchema: z.object({ name: z.string() }) },
    async ({ name }) => ({
      content: [{ type: 'text', text: `${name} is a customer of ${owner}.` }],
    }),
  )

const [owners, keys] = [
  ['acme', 'globex'],
  ['key/of+acme=1234', 'key/of+globex=5678'],
] as const

/** A tenant with the tools `orders` and `crm`, of the servers of this index, both with a key of its own, and an agent that has them. */
async function equipped(index: number) {
  const tenant = await story.tenant()
  const { admin } = tenant
  const { http, mcp } = servers[index] as (typeof servers)[number]
  await setSecret(admin, { name: 'key', value: keys[index] ?? '' })
  const headers = [{ name: 'Authorization', value: 'Bearer {{secret:key}}' }]
  const parameters = { type: 'object', properties: { id: { type: 'string' } }, required: ['id'] }
  const url = `${new URL(http.url).origin}/orders/{id}`
  const orders = await createTool(admin, { name: 'orders', description: 'Shows an order.', http: { url, parameters, headers } })
  const crm = await createTool(admin, { name: 'crm', description: 'The CRM.', mcp: { url: mcp.url, headers } })
  await updateAgentConfig(admin, { enabledTools: ['orders', 'crm__find'] })
  return { ...tenant, orders: orders.tool, crm: crm.tool }
}

/** What the agent of `member` is told of its calls of tools, in one run. */
async function resultsOf(
  member: Scope,
  calls: { name: string; arguments: string }[],
  model = scriptedModel([callsTools(calls), says('Done.')]),
) {
  await using _ = await startWorker(story, { model })
  const { run } = await ask(member)
  const events = await follow(member, run.id)
  expect(events.at(-1)?.type).toBe('RunCompleted')
  const results = model.requests.at(-1)?.messages.flatMap((message) => (message.role === 'tool' ? [message.content] : [])) ?? []
  const outcomes = events.flatMap((event) => (event.type === 'ToolCallFinished' ? [event.outcome] : []))
  return { run, events, results, outcomes, offered: model.requests[0]?.tools ?? [] }
}

describe('two tenants with tools of the same names', () => {
  it('run at once, and each has its own key, its own servers and its own answers', { tags: ['edge-redaction'] }, async () => {
    const tenants = await Promise.all([equipped(0), equipped(1)])
    // Whose message it is says whose customer it asks for.
    const model = scriptedModel([
      async function* (request, signal) {
        const said = (message: ModelMessage | undefined) => message?.content ?? ''
        const isDone = request.messages.some(({ role }) => role === 'tool')
        const asked = said(request.messages.findLast(({ role }) => role === 'user'))
        const calls = [
          { name: 'orders', arguments: JSON.stringify({ id: `order-of-${asked}` }) },
          { name: 'crm__find', arguments: JSON.stringify({ name: `customer-of-${asked}` }) },
        ]
        const answer = request.messages.flatMap((message) => (message.role === 'tool' ? [message.content] : [])).join(' ')
        yield* (isDone ? says(answer) : callsTools(calls))(request, signal)
      },
    ])
    await using _ = await startWorker(story, { model })
    const rounds = 3
    const runs = await Promise.all(
      Array.from({ length: rounds * 2 }, async (_, n) => {
        const { member } = tenants[n % 2] as (typeof tenants)[number]
        const { run } = await ask(member, owners[n % 2])
        return { index: n % 2, text: JSON.stringify(await follow(member, run.id, null, 20_000)) }
      }),
    )

    for (const { index, text } of runs) {
      const [own, other] = [owners[index] ?? '', owners[1 - index] ?? '']
      expect(text).toContain(`customer-of-${own} is a customer of ${own}.`)
      expect(text).toContain(`order-of-${own}`)
      expect(text).toContain('[redacted]')
      expect(text).not.toContain(other)
      for (const key of keys) expect(text).not.toContain(key)
    }
    for (const [index, { http, mcp }] of servers.entries()) {
      expect(http.calls).toHaveLength(rounds)
      expect(mcp.requests.filter(({ rpc }) => rpc === 'tools/call')).toHaveLength(rounds)
      const seen = JSON.stringify([http.calls, mcp.requests])
      expect(seen).toContain(keys[index])
      expect(seen).not.toContain(keys[1 - index])
      expect(seen).not.toContain(`-of-${owners[1 - index]}`)
    }
    const everything = await Promise.all(
      tenants.map(({ admin: { db } }) =>
        Promise.all([db.run.findMany(), db.message.findMany(), db.auditEvent.findMany(), db.tool.findMany()]),
      ),
    )
    for (const key of keys)
      expect(JSON.stringify(everything, (_key, value) => (typeof value === 'bigint' ? String(value) : value))).not.toContain(key)
  })
})

describe('two tenants with a reference server each', () => {
  let everything: EverythingServer[]

  beforeAll(async () => {
    everything = await Promise.all([startEverythingServer(), startEverythingServer()])
  }, 60_000)

  afterAll(() => Promise.all(everything.map((server) => server.close())))

  it('call the same tool at once, and each server sees the key of its tenant alone', async () => {
    const ports = {
      ...story.ports,
      tools: createToolbox({ egress: localEgress(everything.map(({ port }) => port)), now: Date.now }),
    }
    const told = await Promise.all(
      everything.map(async ({ url }, index) => {
        const { admin, member } = await story.tenant()
        await setSecret(admin, { name: 'key', value: keys[index] ?? '' })
        const mcp = {
          url,
          headers: [{ name: 'Authorization', value: 'Bearer {{secret:key}}' }],
          allowedTools: ['echo', 'get-sum'],
        }
        const scope = { ...admin, ports }
        await createTool(scope, { name: 'everything', description: 'Shows all there is.', mcp })
        await updateAgentConfig(scope, { enabledTools: ['everything__echo', 'everything__get-sum'] })
        return { member, message: `Hello, ${owners[index]}!` }
      }),
    )
    const model = scriptedModel([
      async function* (request, signal) {
        const results = request.messages.flatMap((message) => (message.role === 'tool' ? [message.content] : []))
        const message = request.messages.findLast(({ role }) => role === 'user')?.content
        const calls = [
          { name: 'everything__echo', arguments: JSON.stringify({ message }) },
          { name: 'everything__get-sum', arguments: '{"a":2,"b":40}' },
        ]
        yield* (results.length > 0 ? says(results.join(' ')) : callsTools(calls))(request, signal)
      },
    ])
    await using _ = await startWorker(story, { model, ports })
    const answers = await Promise.all(
      told.map(async ({ member, message }) => {
        const { run } = await ask(member, message)
        return JSON.stringify(await follow(member, run.id, null, 20_000))
      }),
    )
    for (const [index, { requests }] of everything.entries()) {
      const [own, other] = [owners[index] ?? '', owners[1 - index] ?? '']
      expect(answers[index]).toContain(`Echo: Hello, ${own}!`)
      expect(answers[index]).toContain('42')
      expect(answers[index]).not.toContain(other)
      const seen = JSON.stringify(requests)
      expect(seen).toContain(`Bearer ${keys[index]}`)
      expect(seen).toContain(`Hello, ${own}!`)
      expect(seen).not.toContain(keys[1 - index])
      expect(seen).not.toContain(other)
      for (const key of keys) expect(answers[index]).not.toContain(key)
    }
  })
})

describe("a tenant's tools", () => {
  it('are for the model what is enabled, and nothing else', async () => {
    const { admin, endUser } = await equipped(0)
    await updateAgentConfig(admin, { enabledTools: ['crm__find'] })
    const { results, outcomes, offered, run } = await resultsOf(endUser, [
      { name: 'orders', arguments: '{"id":"secret argument"}' },
      { name: 'crm__find', arguments: '{"name":"Ada"}' },
      { name: 'crm__remove', arguments: '{}' },
      { name: 'calculator', arguments: '{}' },
      { name: 'a name\nthat is none', arguments: '{}' },
    ])
    expect(offered.map(({ name }) => name)).toEqual(['crm__find'])
    expect(outcomes).toEqual(expect.arrayContaining(['REFUSED', 'COMPLETED']))
    expect(results).toEqual(['There is no such tool.', 'Ada is a customer of acme.', ...Array(3).fill('There is no such tool.')])
    expect(servers[0]?.http.calls).toEqual([])

    const { edges } = await listAuditEvents(admin, { first: 50 }, { action: 'refuseToolCall' })
    const noted = edges.map(({ node }) => node)
    expect(noted.map(({ details }) => details)).toEqual(
      expect.arrayContaining([{ name: 'orders' }, { name: 'crm__remove' }, { name: 'calculator' }, { name: null }]),
    )
    expect(noted).toHaveLength(4)
    for (const each of noted) expect(each).toMatchObject({ actorKind: 'SYSTEM', subject: 'Run', subjectId: run.id })
    expect(JSON.stringify(noted)).not.toContain('secret argument')
  })

  it('cannot be enabled by a tenant that has none of them', async () => {
    const { admin } = await story.tenant()
    await expect(updateAgentConfig(admin, { enabledTools: ['orders'] })).rejects.toThrow(ValidationProblem)
    await expect(updateAgentConfig(admin, { enabledTools: ['crm__find'] })).rejects.toThrow(ValidationProblem)
    await updateAgentConfig(admin, { enabledTools: ['current_time', 'calculator'] })
  })

  it('that were deleted no longer exist for the model, though they are enabled', async () => {
    const { admin, member, orders } = await equipped(0)
    await deleteTool(admin, { toolId: orders.id })
    const { results, offered } = await resultsOf(member, [{ name: 'orders', arguments: '{"id":"1"}' }])
    expect(offered.map(({ name }) => name)).toEqual(['crm__find'])
    expect(results).toEqual(['There is no such tool.'])
  })

  it('stay as they were for a run under way, whatever becomes of them', async () => {
    const { admin, member, orders, crm } = await equipped(0)
    const { http, mcp } = servers[0] as (typeof servers)[number]
    const model = scriptedModel([
      async function* (request, signal) {
        await updateTool(admin, { toolId: orders.id, http: { url: `${new URL(http.url).origin}/elsewhere` } })
        mcp.register = (server) => void server.registerTool('other', { description: 'Other.' }, async () => ({ content: [] }))
        await updateTool(admin, { toolId: crm.id, refresh: true })
        mcp.register = crmOf('acme')
        const calls = [
          { name: 'orders', arguments: '{"id":"1"}' },
          { name: 'crm__find', arguments: '{"name":"Ada"}' },
          { name: 'crm__other', arguments: '{}' },
        ]
        yield* callsTools(calls)(request, signal)
      },
      says('Done.'),
    ])
    const { results } = await resultsOf(member, [], model)
    expect(http.calls.map(({ path }) => path)).toEqual(['/orders/1'])
    expect(results.slice(1)).toEqual(['Ada is a customer of acme.', 'There is no such tool.'])
  })

  it('fail for the model to read, and the run goes on', async () => {
    const { admin, member } = await equipped(0)
    const { http, mcp } = servers[0] as (typeof servers)[number]
    http.answer = ({ headers }, response) => void response.writeHead(503).end(`No, ${headers['authorization']}!`)
    mcp.answer = (_asked, response) => void response.writeHead(401).end()
    const calls = [
      { name: 'orders', arguments: '{"id":"1"}' },
      { name: 'crm__find', arguments: '{"name":"Ada"}' },
      { name: 'orders', arguments: '{"id":1}' },
    ]
    const { results, outcomes } = await resultsOf(member, calls)
    expect(outcomes).toEqual(['FAILED', 'FAILED', 'FAILED'])
    expect(results[0]).toBe('The server answered 503: No, Bearer [redacted]!')
    expect(results[2]).toBe('arguments/id must be string')
    const secret = await admin.db.secret.findFirstOrThrow()
    await deleteSecret(admin, { secretId: secret.id })
    mcp.answer = null
    const later = await resultsOf(member, calls)
    expect(later.results.slice(0, 2)).toEqual(Array(2).fill('The tool is not set up: a secret that it needs is missing.'))
  })
})
