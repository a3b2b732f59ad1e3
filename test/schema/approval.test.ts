import { createHash } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Tool } from '../../src/domain/ports.ts'
import { encodeId } from '../../src/schema/global-id.ts'
import { agentReplySubscription } from '../operations/agent-reply.ts'
import { approvalsQuery, approveToolCallMutation, rejectToolCallMutation } from '../operations/approval.ts'
import { nodeQuery } from '../operations/node.ts'
import type { Api } from '../support/api.ts'
import { payload, say } from '../support/conversing.ts'
import { callsTool, says } from '../support/fake-upstream.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'
import type { TenantStory } from '../support/story.ts'

const send: Tool = {
  name: 'send',
  description: 'Sends a letter.',
  parameters: { type: 'object', properties: { to: { type: 'string' } } },
  isRepeatable: false,
  asksFirst: () => true,
  call: async (args) => `Sent to ${(args as { to: string }).to}.`,
}

let platform: TestPlatform
let tenant: TenantStory
let api: Api

beforeAll(async () => {
  platform = await startTestPlatform({ ports: { tools: { available: async () => [send] } } })
  // Reads the encoding, for which a busy machine takes seconds.
  platform.story.ports.model.countTokens('gpt-4o-mini', 'Hello?')
  tenant = await platform.story.tenant({ agent: { enabledTools: ['send'] } })
  api = platform.api(tenant.keys.member)
})

afterAll(() => platform.stop())

/** Has the agent want to send a letter, and follows it until it waits. */
async function askForLetter(to: string, as = api) {
  platform.upstream.when(({ lastMessage }) => lastMessage === to, callsTool('send', { to }))
  platform.upstream.when(({ lastMessage }) => lastMessage?.startsWith('Sent to') === true, says('It is on its way.'))
  platform.upstream.when(({ lastMessage }) => lastMessage?.startsWith('A person decided') === true, says('Then not.'))
  const { runId } = await say(as, to)
  const stream = as.follow(agentReplySubscription, { runId })
  for (;;) {
    const { value, done } = await stream.next()
    if (done) throw new Error('The run did not ask anybody.')
    if (value.agentReply.__typename === 'ApprovalRequested') return { runId, stream, request: value.agentReply }
  }
}

async function rest(stream: Awaited<ReturnType<typeof askForLetter>>['stream']) {
  const events = []
  for await (const { agentReply } of stream) events.push(agentReply)
  return events
}

describe('a request for approval', () => {
  it('is streamed and listed, and what is approved is done', async () => {
    const { runId, stream, request } = await askForLetter('Ada')
    const argumentsHash = createHash('sha256').update(request.arguments).digest('hex')
    expect(request).toMatchObject({ name: 'send', argumentsHash, mayHaveHappened: false })
    expect(JSON.parse(request.arguments)).toEqual({ to: 'Ada' })
    const { approvals } = await api.data(approvalsQuery, { first: 10 })
    expect(approvals.edges.map(({ node }) => node)).toEqual([
      {
        ...{ id: request.approvalId, status: 'PENDING', toolCallId: request.toolCallId, name: 'send', argumentsHash },
        ...{ arguments: request.arguments, mayHaveHappened: false, createdAt: expect.any(String), expiresAt: request.expiresAt },
        ...{ decidedAt: null, decidedBy: null, reason: null, run: { id: runId, status: expect.any(String) } },
      },
    ])
    const input = { approvalId: request.approvalId, argumentsHash, reason: 'She waits for it.' }
    const wrong = { ...input, argumentsHash: createHash('sha256').update('{}').digest('hex') }
    expect((await api.data(approveToolCallMutation, { input: wrong })).approveToolCall).toMatchObject({ __typename: 'Conflict' })
    const approve = async () => (await api.data(approveToolCallMutation, { input })).approveToolCall
    const approval = { id: request.approvalId, status: 'APPROVED', decidedBy: 'Max', reason: 'She waits for it.' }
    expect(payload(await approve(), 'ApproveToolCallPayload').approval).toEqual(approval)
    expect(payload(await approve(), 'ApproveToolCallPayload').approval).toEqual(approval)
    expect((await api.data(rejectToolCallMutation, { input })).rejectToolCall).toMatchObject({ __typename: 'Conflict' })

    const events = await rest(stream)
    expect(events.map(({ __typename }) => __typename)).toEqual(expect.arrayContaining(['RunPaused', 'RunResumed']))
    expect(events).toContainEqual(expect.objectContaining({ __typename: 'ToolCallFinished', outcome: 'COMPLETED' }))
    expect(events.at(-1)).toMatchObject({ __typename: 'RunCompleted', message: { content: 'It is on its way.' } })
    expect((await api.data(approvalsQuery, { first: 10 })).approvals.edges).toEqual([])
    const node = { __typename: 'Approval', id: request.approvalId }
    expect((await api.data(nodeQuery, { id: request.approvalId })).node).toEqual(node)
  })

  it('that is rejected is not done, and the agent goes on', async () => {
    const { stream, request } = await askForLetter('Bob')
    const input = { approvalId: request.approvalId, argumentsHash: request.argumentsHash }
    const { rejectToolCall } = await platform.api(tenant.keys.admin).data(rejectToolCallMutation, { input })
    expect(payload(rejectToolCall, 'RejectToolCallPayload').approval).toMatchObject({ status: 'REJECTED', decidedBy: 'Ada' })
    const events = await rest(stream)
    expect(events).toContainEqual(expect.objectContaining({ __typename: 'ToolCallFinished', outcome: 'REJECTED' }))
    expect(events.at(-1)).toMatchObject({ __typename: 'RunCompleted', message: { content: 'Then not.' } })
  })

  it('of an end user’s run is shown to them, and decided by staff', async () => {
    const endUser = platform.api(tenant.keys.endUser)
    const { stream, request } = await askForLetter('Cleo', endUser)
    const input = { approvalId: request.approvalId, argumentsHash: request.argumentsHash }
    expect((await endUser.data(approveToolCallMutation, { input })).approveToolCall).toMatchObject({ __typename: 'Forbidden' })
    expect((await endUser.data(rejectToolCallMutation, { input })).rejectToolCall).toMatchObject({ __typename: 'Forbidden' })
    expect((await endUser.ask(approvalsQuery, { first: 10 })).errors?.[0]?.extensions).toMatchObject({ code: 'FORBIDDEN' })
    await api.data(rejectToolCallMutation, { input })
    expect((await rest(stream)).at(-1)).toMatchObject({ __typename: 'RunCompleted' })
  })

  it('of another tenant is as one that never was', async () => {
    const { stream, request } = await askForLetter('Dan')
    const other = platform.api(platform.globex.keys.admin)
    const never = encodeId('Approval', '00000000-0000-8000-a000-000000000000')
    for (const approvalId of [request.approvalId, never]) {
      const input = { approvalId, argumentsHash: request.argumentsHash }
      const notFound = { __typename: 'NotFound', message: 'There is no such approval.' }
      expect((await other.data(approveToolCallMutation, { input })).approveToolCall).toEqual(notFound)
      expect((await other.data(rejectToolCallMutation, { input })).rejectToolCall).toEqual(notFound)
      expect((await other.data(nodeQuery, { id: approvalId })).node).toBeNull()
    }
    await api.data(rejectToolCallMutation, { input: { approvalId: request.approvalId, argumentsHash: request.argumentsHash } })
    await rest(stream)
  })
})
