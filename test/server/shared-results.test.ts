import { type ExecutionResult, GraphQLError, parse } from 'graphql'
import { describe, expect, it } from 'vitest'
import type { Principal } from '../../src/domain/authenticate.ts'
import { eventId, SharedResults, sharingKey, written } from '../../src/server/shared-results.ts'

type Who = { tenant?: string; role?: string; userId?: string | null }

function principal({ tenant = 'acme', role = 'MEMBER', userId = null }: Who = {}): Principal {
  return { kind: 'tenant', scope: { tenant: { id: tenant }, actor: { id: 'key', role, userId } } } as unknown as Principal
}

const document = parse(`subscription ($runId: ID!, $after: String, $long: Boolean!) {
  agentReply(runId: $runId, after: $after) { ... on TextDelta { cursor text @include(if: $long) } }
}`)
const variableValues = { runId: 'r', after: null, long: true }
const keyOf = (who: Who = {}, args: object = {}) => sharingKey({ document, variableValues, ...args } as never, principal(who))

describe('a sharing key', { tags: ['rule-13'] }, () => {
  it('is another for another tenant, role, user, document, operation, or variable that a result depends on', () => {
    const keys = [
      keyOf(),
      keyOf({ tenant: 'globex' }),
      keyOf({ role: 'ADMIN' }),
      keyOf({ role: 'END_USER', userId: 'ann' }),
      keyOf({ role: 'END_USER', userId: 'bob' }),
      keyOf({}, { document: parse('subscription { agentReply(runId: "r") { __typename } }') }),
      keyOf({}, { operationName: 'Other' }),
      keyOf({}, { variableValues: { ...variableValues, runId: 's' } }),
      keyOf({}, { variableValues: { ...variableValues, long: false } }),
    ]
    expect(new Set(keys).size).toBe(keys.length)
  })

  it('is the same wherever they begin, and none for who belongs to no tenant', () => {
    expect(keyOf({}, { variableValues: { ...variableValues, after: '1-1' } })).toBe(keyOf())
    expect(sharingKey({ document } as never, null)).toBeNull()
    expect(sharingKey({ document } as never, { kind: 'operator' } as Principal)).toBeNull()
  })

  it('knows a variable that begins a stream and shows in its results as well', () => {
    const both = parse(
      'subscription ($after: String) { agentReply(after: $after) { ... on Snapshot { run { messages(after: $after) { id } } } } }',
    )
    const at = (after: string) => keyOf({}, { document: both, variableValues: { after } })
    expect(at('1-1')).not.toBe(at('1-2'))
  })
})

describe('a result', () => {
  const event = { cursor: '1-1' }
  const counting = (make: () => ExecutionResult | Promise<ExecutionResult>) => {
    const execute = () => {
      execute.calls += 1
      return make()
    }
    execute.calls = 0
    return execute
  }

  it('is executed and written once for each event and key', () => {
    const results = new SharedResults()
    const execute = counting(() => ({ data: { text: 'Hi' } }))
    const first = results.of(event, 'key', execute)
    expect(first).toMatchObject({ data: { text: 'Hi' }, [eventId]: '1-1', [written]: '{"data":{"text":"Hi"}}' })
    expect(results.of(event, 'key', execute)).toBe(first)
    expect(execute.calls).toBe(1)
    expect(results.of(event, 'other', execute)).not.toBe(first)
    expect(results.of({ cursor: '1-1' }, 'key', execute)).not.toBe(first)
    expect(results.of(event, null, execute)).not.toBe(first)
    expect(execute.calls).toBe(4)
  })

  it('that something was loaded for is shared while it is being made, and no longer', async () => {
    const results = new SharedResults()
    const execute = counting(async () => ({ data: {} }))
    const [one, other] = await Promise.all([results.of(event, 'key', execute), results.of(event, 'key', execute)])
    expect(one).toBe(other)
    expect(execute.calls).toBe(1)
    await results.of(event, 'key', execute)
    expect(execute.calls).toBe(2)
  })

  it('with errors is written by nobody but who masks them', () => {
    const results = new SharedResults()
    const result = results.of(event, 'key', () => ({ errors: [new GraphQLError('secret')] }))
    expect(written in result).toBe(false)
  })

  it('is not kept when newer ones take its place', () => {
    const results = new SharedResults()
    const execute = counting(() => ({ data: 'x'.repeat(1_000_000) as never }))
    results.of(event, 'key', execute)
    const newest = { cursor: '1-9' }
    for (const other of [...Array.from({ length: 4 }, () => ({})), newest]) results.of(other, 'key', execute)
    const before = execute.calls
    results.of(newest, 'key', execute)
    expect(execute.calls).toBe(before)
    results.of(event, 'key', execute)
    expect(execute.calls).toBe(before + 1)
  })
})
