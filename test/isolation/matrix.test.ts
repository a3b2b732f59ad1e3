import { isDeepStrictEqual } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { newId } from '../../src/domain/ids.ts'
import { encodeId, type NodeType } from '../../src/schema/global-id.ts'
import { describedArguments, idOf, referenceOf, validVariables } from './arguments.ts'
import { type Between, betweens, type Encounter, type MeetingPlace, openMeetingPlace, type RoleName } from './encounters.ts'
import { type ArgumentPlace, documentOf, nestedIds, type Operation, operations, typesWithId, withValue } from './operations.ts'
import { type Party, rowOf } from './rows.ts'
import { type Answer, overEventStream, overHttp, overWebSocket, type Transport } from './transports.ts'
import { tried } from './tried.ts'

/** How far below an operation everything is asked for. */
const depth = { ofAll: 4, ofWhatIsNotThere: 2 }

/** What is an id of nothing. */
const malformed = ['nonsense', '', '\u0000', 'x'.repeat(10_000)]

let place: MeetingPlace

beforeAll(async () => {
  place = await openMeetingPlace()
})

afterAll(() => place.close())

it('no field below the operations takes an id: the matrix would have to try it there', () => {
  expect(nestedIds).toEqual([])
})

it('no argument is described that is not there', () => {
  const there = operations.flatMap(({ places }) => places.map(({ coordinate }) => coordinate))
  expect(describedArguments.filter((coordinate) => !there.includes(coordinate))).toEqual([])
})

for (const between of betweens) {
  describe(`between ${between.title}`, () => {
    for (const operation of operations) {
      for (const argument of operation.places) {
        if (!nameableIn(argument, between)) continue
        const title = `${operation.kind} ${operation.name} answers what is the other's as if it were not there: ${argument.coordinate}`
        it(title, { tags: tagsOf(operation, between, 'rule-12') }, async ({ task }) => {
          const encounter = await place.meet(between)
          const before = await place.rowsOfOther(encounter)
          const { cases, leaks } = await compareAnswers(between, encounter, operation, argument)
          const after = await place.rowsOfOther(encounter)
          if (!isDeepStrictEqual(after, before)) leaks.push({ before, after })
          tried(task, { cases, leaks: leaks.length })
          expect(leaks).toEqual([])
          const told = await someoneIsAnswered(between, encounter, operation, argument)
          expect(told, `Also one's own is answered as if it were not there, which proves nothing. ${advice}`).toBe(true)
        })
      }

      const title = `${operation.kind} ${operation.name} shows each role its own, and changes nothing of the other's`
      it(title, { tags: tagsOf(operation, between, 'rule-16') }, async ({ task }) => {
        const answers: Answer[] = []
        const leaks: object[] = []
        // A mutation may leave nothing to call another one with.
        const lasting = operation.kind === 'mutation' ? null : await place.meet(between)
        for (const role of between.callers) {
          for (const which of ['every', 'needed'] as const) {
            for (const transport of transportsOf(operation)) {
              const encounter = lasting ?? (await place.meet(between))
              const before = await place.rowsOfOther(encounter)
              const variables = validVariables(operation, encounter.own, which)
              const answer = await ask(transport, documentOf(operation, depth.ofAll), encounter, role, variables)
              const after = await place.rowsOfOther(encounter)
              answers.push(answer)
              if (isTelling(answer, encounter, role)) leaks.push({ role, variables, shown: answer.shown })
              if (!isDeepStrictEqual(after, before)) leaks.push({ role, variables, before, after })
            }
          }
        }
        tried(task, { cases: answers.length, leaks: leaks.length })
        expect(leaks).toEqual([])
        const shown = answers.map((answer) => answer.shown)
        expect(shown.filter((text) => text.includes('"INTERNAL"'))).toEqual([])
        if (!between.callers.includes('ADMIN')) return
        const succeeded = answers.some((answer) => isSuccess(operation, answer))
        expect(succeeded, `Nobody could do it. ${advice}\n${shown.join('\n')}`).toBe(true)
      })
    }
  })
}

const advice = 'Add what makes a valid call of it to test/isolation/arguments.ts.'

function tagsOf({ kind }: Operation, { tags }: Between, rule: string): string[] {
  return [...tags, rule, ...(kind === 'subscription' ? ['rule-13'] : [])]
}

function transportsOf({ kind }: Operation): Transport[] {
  if (kind === 'mutation') return [overHttp]
  return kind === 'subscription' ? [overWebSocket, overEventStream] : [overHttp, overWebSocket]
}

/** Whether the argument can name anything that one of the two has and the other has not. */
function nameableIn(argument: ArgumentPlace, { make }: Between): boolean {
  const reference = referenceOf(argument)
  if (!reference) return false
  const { parted } = make()
  return reference.by === 'text' ? parted.includes(reference.model) : reference.types.some((type) => parted.includes(type))
}

/** Values for an argument that must be answered alike: `unknown` names nothing, the others what the caller must not see. */
type Alike = { unknown: string; own: string; others: string[] }

function alikeAt(argument: ArgumentPlace, { own, other, parted }: Encounter, role: RoleName): Alike[] {
  const reference = referenceOf(argument)
  if (reference?.by === 'text') {
    const textOf = (party: Party) => rowOf(party, reference.model)[reference.column]
    const theirs = textOf(other)
    return [{ unknown: newId(), own: String(textOf(own)), others: typeof theirs === 'string' ? [theirs] : [] }]
  }
  const types = reference?.types.filter((type) => parted.includes(type)) ?? []
  const wrong = (type: string) =>
    typesWithId.filter((each) => each !== type).flatMap((each) => [idOf(own, each), idOf(other, each)])
  return types.map((type) => ({
    unknown: encodeId(type as NodeType, newId()),
    own: idOf(own, type),
    others: [
      // Operators may see any tenant.
      ...(role === 'OPERATOR' && type === 'Tenant' ? [] : [idOf(other, type)]),
      ...(types.length === 1 ? [...wrong(type), ...malformed] : []),
    ],
  }))
}

/** Asks for all that must be answered alike. The leaks are answers that differ, or tell of the other. */
async function compareAnswers(between: Between, encounter: Encounter, operation: Operation, argument: ArgumentPlace) {
  const leaks: object[] = []
  let cases = 0
  for (const role of between.callers) {
    for (const { unknown, others } of alikeAt(argument, encounter, role)) {
      for (const [index, transport] of transportsOf(operation).entries()) {
        const askFor = (value: string) => askNaming(transport, operation, encounter, role, argument, value)
        const unnamed = await askFor(unknown)
        expect(unnamed, 'An unknown id is there.').toSatisfy((answer: Answer) => isAbsence(operation, answer))
        const expected = unnamed.shown
        // Behind the transport all is the same: on the second one, the foreign id will do.
        const values = index === 0 ? others : others.slice(0, 1)
        const answers = await Promise.all(values.map(async (value) => ({ role, value, answer: await askFor(value) })))
        cases += answers.length
        for (const { value, answer } of answers) {
          if (answer.shown === expected && !isTelling(answer, encounter, role)) continue
          leaks.push({ role, value, shown: answer.shown, expected })
        }
      }
    }
  }
  return { cases, leaks }
}

/** Whether any role is answered otherwise when the argument names what is its own. */
async function someoneIsAnswered(between: Between, encounter: Encounter, operation: Operation, argument: ArgumentPlace) {
  const [transport] = transportsOf(operation) as [Transport]
  for (const role of between.callers) {
    for (const { unknown, own } of alikeAt(argument, encounter, role)) {
      const expected = await askNaming(transport, operation, encounter, role, argument, unknown)
      const answer = await askNaming(transport, operation, encounter, role, argument, own)
      if (answer.shown !== expected.shown) return true
    }
  }
  return false
}

/** Asks with `value` in the argument, and else only with what a call needs: nothing narrows the answer but the argument. */
function askNaming(
  transport: Transport,
  operation: Operation,
  encounter: Encounter,
  role: RoleName,
  argument: ArgumentPlace,
  value: string,
): Promise<Answer> {
  const variables = withValue(validVariables(operation, encounter.own, 'needed'), argument, value)
  return ask(transport, documentOf(operation, depth.ofWhatIsNotThere), encounter, role, variables)
}

function ask(
  transport: Transport,
  query: string,
  { keys }: Encounter,
  role: RoleName,
  variables: Record<string, unknown>,
): Promise<Answer> {
  return transport({ url: place.platform.url, key: keys[role], query, variables })
}

function isTelling({ shown }: Answer, { hiddenFrom }: Encounter, role: RoleName): boolean {
  return hiddenFrom(role).some((trace) => shown.includes(trace))
}

function isSuccess({ kind, name }: Operation, { results }: Answer): boolean {
  return (
    results.length > 0 &&
    results.every(({ data, errors }) => {
      const result = data?.[name] as { __typename?: string } | null | undefined
      return !errors && result != null && (kind !== 'mutation' || String(result.__typename).endsWith('Payload'))
    })
  )
}

/** Whether nothing was found: null, an empty page, NotFound; or the role may not look at all. */
function isAbsence({ name }: Operation, { results }: Answer): boolean {
  return results.every(({ data, errors }) => {
    if (errors) return errors.every(({ extensions }) => refusals.has(String(extensions?.['code'])))
    const result = data?.[name] as { __typename?: string; edges?: unknown[] } | null
    return result === null || result?.edges?.length === 0 || ['NotFound', 'Forbidden'].includes(String(result?.__typename))
  })
}

const refusals: ReadonlySet<string> = new Set(['NOT_FOUND', 'FORBIDDEN'])
