import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { newId } from '../../src/domain/ids.ts'
import { createEgress } from '../../src/tools/egress.ts'
import type { CreateToolInput } from '../generated/graphql.ts'
import { nodeQuery } from '../operations/node.ts'
import { createToolMutation, deleteToolMutation, toolsQuery, updateToolMutation } from '../operations/tool.ts'
import type { Api } from '../support/api.ts'
import { payload } from '../support/conversing.ts'
import { startMcpServer, type TestMcpServer } from '../support/mcp-server.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'

let server: TestMcpServer
let platform: TestPlatform
let api: Api

beforeAll(async () => {
  server = await startMcpServer((mcp) => void mcp.registerTool('find', { description: 'Finds.' }, async () => ({ content: [] })))
  const egress = createEgress({ allowed: [{ address: '127.0.0.1', port: server.port }], allowHttp: true })
  platform = await startTestPlatform({ ports: { egress } })
  api = platform.api(platform.acme.keys.admin)
})

afterAll(async () => {
  await platform.stop()
  await server.close()
})

const http = { url: 'https://api.example.com/orders' }
const orders = { name: 'orders', description: 'Lists orders.', http }

async function create(input: CreateToolInput, as = api) {
  return (await as.data(createToolMutation, { input })).createTool
}

/** An admin of a tenant that has no tools yet. */
async function someone(): Promise<Api> {
  return platform.api((await platform.story.tenant()).keys.admin)
}

const toolsOf = async (as: Api) => (await as.data(toolsQuery)).tools

describe('a tool', () => {
  it('is there from when it is created until it is deleted', async () => {
    const admin = await someone()
    const parameters = { type: 'object', properties: { id: { type: 'string' } }, required: ['id'] }
    const headers = [{ name: 'Authorization', value: 'Bearer {{secret:orders}}' }]
    const given = { method: 'POST', url: 'https://api.example.com/orders/{id}', parameters, headers, approval: 'ALWAYS' } as const
    const { tool } = payload(await create({ ...orders, http: given }, admin), 'CreateToolPayload')
    const functions = [{ name: 'orders', description: 'Lists orders.', parameters }]
    const [listed] = await toolsOf(admin)
    const defaults = { allowedHosts: ['api.example.com'], responseMapping: [], timeoutMs: 15_000, maxBytes: 262_144 }
    expect(listed).toMatchObject({
      ...{ id: tool.id, kind: 'HTTP', name: 'orders', description: 'Lists orders.', functions, mcp: null },
      http: { ...given, ...defaults, isIdempotent: false, approvalWhen: null },
    })
    expect((await admin.data(nodeQuery, { id: tool.id })).node).toEqual({ __typename: 'Tool', id: tool.id })

    const remove = async () => (await admin.data(deleteToolMutation, { input: { toolId: tool.id } })).deleteTool
    expect(payload(await remove(), 'DeleteToolPayload').tool).toEqual({ id: tool.id, name: 'orders' })
    expect(await toolsOf(admin)).toEqual([])
    expect((await admin.data(nodeQuery, { id: tool.id })).node).toBeNull()
    expect(await remove()).toMatchObject({ __typename: 'NotFound' })
  })

  it('is created once however often the call is repeated', async () => {
    const admin = await someone()
    const input = { ...orders, idempotencyKey: newId() }
    const first = payload(await create(input, admin), 'CreateToolPayload')
    expect(payload(await create(input, admin), 'CreateToolPayload')).toEqual(first)
    expect(await create({ ...input, description: 'Other.' }, admin)).toMatchObject({ __typename: 'Conflict' })
    expect(await toolsOf(admin)).toHaveLength(1)
  })

  it('changes as it is told, keeps the rest, and keeps its name', async () => {
    const admin = await someone()
    const { tool } = payload(await create(orders, admin), 'CreateToolPayload')
    const update = async (change: object) =>
      (await admin.data(updateToolMutation, { input: { toolId: tool.id, ...change } })).updateTool
    const described = payload(await update({ description: 'Lists all orders.' }), 'UpdateToolPayload').tool
    expect(described).toMatchObject({ description: 'Lists all orders.', http })
    const url = 'https://api.example.com/v2/orders'
    const moved = payload(await update({ http: { url } }), 'UpdateToolPayload').tool
    expect(moved).toMatchObject({ description: 'Lists all orders.', http: { url }, functions: [{ name: 'orders' }] })
    expect(await toolsOf(admin)).toMatchObject([{ description: 'Lists all orders.', http: { url } }])
    expect(await update({ http: { url: 'nonsense' } })).toMatchObject({ __typename: 'ValidationProblem', path: ['http', 'url'] })
    expect(await update({ mcp: { url } })).toMatchObject({ __typename: 'ValidationProblem', path: ['mcp'] })
    expect(await update({ refresh: true })).toMatchObject({ __typename: 'ValidationProblem', path: ['refresh'] })
    expect(await toolsOf(admin)).toMatchObject([{ description: 'Lists all orders.', http: { url } }])
  })

  it('of a server has the tools that the server had when it was last asked', async () => {
    const admin = await someone()
    const input = { name: 'crm', description: 'The CRM.', mcp: { url: server.url } }
    const { tool } = payload(await create(input, admin), 'CreateToolPayload')
    expect(tool.functions).toEqual([{ name: 'crm__find', description: 'Finds.' }])
    server.register = (mcp) => void mcp.registerTool('seek', { description: 'Seeks.' }, async () => ({ content: [] }))
    expect(await toolsOf(admin)).toMatchObject([{ functions: [{ name: 'crm__find' }], mcp: { url: server.url } }])
    const refreshed = await admin.data(updateToolMutation, { input: { toolId: tool.id, refresh: true } })
    expect(payload(refreshed.updateTool, 'UpdateToolPayload').tool.functions).toEqual([
      { name: 'crm__seek', description: 'Seeks.' },
    ])
  })

  it.each<[object, string[]]>([
    [{ name: '' }, ['name']],
    [{ name: 'a tool' }, ['name']],
    [{ name: '1st' }, ['name']],
    [{ name: 'a__b' }, ['name']],
    [{ name: 'a_' }, ['name']],
    [{ name: 'a'.repeat(65) }, ['name']],
    [{ name: 'current_time' }, ['name']],
    [{ name: 'calculator' }, ['name']],
    [{ name: 'hand_over_to_sales' }, ['name']],
    [{ name: 'outils\u00e9' }, ['name']],
    [{ description: '' }, ['description']],
    [{ description: 'a\0b' }, ['description']],
    [{ description: 'a'.repeat(1_025) }, ['description']],
    [{ http: null }, ['http']],
    [{ mcp: { url: 'https://mcp.example.com/' } }, ['http']],
    [{ http: { url: 'https://10.0.0.1/' } }, ['http', 'url']],
    [{ http: { ...http, headers: [{ name: 'a', value: 'b\r\nc: d' }] } }, ['http', 'headers']],
    [{ http: { ...http, parameters: { type: 'nonsense' } } }, ['http', 'parameters']],
    [{ http: null, mcp: { url: 'https://169.254.169.254/' } }, ['mcp', 'url']],
    [{ idempotencyKey: '' }, ['idempotencyKey']],
  ])('is refused for %o', async (change, path) => {
    expect(await create({ ...orders, ...change })).toMatchObject({ __typename: 'ValidationProblem', path })
  })

  it('is the only one of its name, also when all are created at once', async () => {
    const admin = await someone()
    const made = await Promise.all(Array.from({ length: 4 }, () => create(orders, admin)))
    expect(made.map(({ __typename }) => __typename).sort()).toEqual(['Conflict', 'Conflict', 'Conflict', 'CreateToolPayload'])
    expect(made.find(({ __typename }) => __typename === 'Conflict')).toMatchObject({
      message: 'There is a tool of this name already.',
    })
    // Another tenant's name is nobody's business.
    expect(await create(orders, await someone())).toMatchObject({ __typename: 'CreateToolPayload' })
  })

  it('is one of fifty at most', async () => {
    const admin = await someone()
    for (let n = 0; n < 50; n++) payload(await create({ ...orders, name: `orders-${n}` }, admin), 'CreateToolPayload')
    const refused = await create(orders, admin)
    expect(refused).toMatchObject({ __typename: 'Conflict', message: 'There are 50 tools already. Delete one first.' })
  })

  it('is for admins, also as a node', async () => {
    const { tool } = payload(await create({ ...orders, name: 'private' }), 'CreateToolPayload')
    for (const key of [platform.acme.keys.member, platform.acme.keys.endUser]) {
      const other = platform.api(key)
      expect(await create(orders, other)).toMatchObject({ __typename: 'Forbidden' })
      const toolId = tool.id
      const changed = await other.data(updateToolMutation, { input: { toolId, description: 'Mine.' } })
      expect(changed.updateTool).toMatchObject({ __typename: 'Forbidden' })
      expect((await other.data(deleteToolMutation, { input: { toolId } })).deleteTool).toMatchObject({ __typename: 'Forbidden' })
      for (const asked of [await other.ask(toolsQuery), await other.ask(nodeQuery, { id: toolId })])
        expect(asked.errors?.[0]?.extensions?.['code']).toBe('FORBIDDEN')
    }
  })
})
