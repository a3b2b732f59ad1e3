import fc from 'fast-check'
import { buildSchema, executeSync, parse } from 'graphql'
import { describe, expect, it, vi } from 'vitest'
import { type EventResult, written } from '../../src/server/shared-results.ts'
import { TextTemplate } from '../../src/server/text-template.ts'

const schema = buildSchema(`
  type TextDelta { cursor: String!, text: String! }
  type Lagged { cursor: String!, resumeAfter: String! }
  union Event = TextDelta | Lagged
  type Query { event: Event! }
`)

function executing(query: string) {
  const document = parse(query)
  return vi.fn((event: unknown) =>
    executeSync({
      schema,
      document,
      rootValue: { event: { ...(event as object), __typename: (event as { type: string }).type } },
    }),
  )
}

const documents = [
  '{ event { ... on TextDelta { cursor text } } }',
  '{ event { __typename ... on TextDelta { text } } }',
  '{ a: event { ... on TextDelta { text, again: text, text, place: cursor } } event { __typename } }',
  '{ event { ... on Lagged { resumeAfter } } }',
]

describe('a text template', () => {
  it('writes what executing the document would, for any text', () => {
    const text = fc.oneof(fc.string({ unit: 'binary' }), fc.constantFrom('', '"', '\\', '\u2028', '\ud800', '$&', '👋'))
    fc.assert(
      fc.property(fc.constantFrom(...documents), fc.array(fc.record({ cursor: text, text })), (query, events) => {
        const execute = executing(query)
        const template = new TextTemplate(execute)
        for (const event of events.map((each) => ({ type: 'TextDelta', ...each }))) {
          const result = template.resultOf(event) as EventResult
          expect(result[written]?.text).toBe(JSON.stringify(executing(query)(event)))
        }
        expect(execute).toHaveBeenCalledTimes(Math.min(1, events.length))
      }),
    )
  })

  it('executes every other event', () => {
    const execute = executing(documents[3] ?? '')
    const template = new TextTemplate(execute)
    const event = { type: 'Lagged', cursor: '1-2', resumeAfter: '1-1' }
    expect(template.resultOf(event)).toEqual({ data: { event: { resumeAfter: '1-1' } } })
    expect(template.resultOf(event)).toEqual({ data: { event: { resumeAfter: '1-1' } } })
    expect(execute.mock.calls).toEqual([[event], [event]])
  })

  it('executes texts as well when that fails, or has to wait', async () => {
    for (const outcome of [{ errors: [] }, Promise.resolve({ data: null })]) {
      const execute = vi.fn(() => outcome)
      const template = new TextTemplate(execute)
      const event = { type: 'TextDelta', cursor: '1-1', text: 'Hi' }
      expect(template.resultOf(event)).toBe(outcome)
      expect(template.resultOf(event)).toBe(outcome)
      expect(execute).toHaveBeenCalledTimes(3)
      expect(execute).toHaveBeenLastCalledWith(event)
    }
  })
})
