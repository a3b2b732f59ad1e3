import { isDeepStrictEqual } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { newId } from '../../src/domain/ids.ts'
import { encodeId, type NodeType } from '../../src/schema/global-id.ts'
import type { RoleName } from '../../src/schema/role.ts'
import { describedArguments, idOf, modelOf, type Reference, validVariables } from './arguments.ts'
import { type Between, betweens, type Encounter, type MeetingPlace, openMeetingPlace } from './encounters.ts'
import { documentOf, nestedIds, type Operation, operations, typesWithId } from './operations.ts'
import { type Party, rowOf } from './rows.ts'
import { type Subject, subjects, tagsOf, transportsOf } from './subjects.ts'
import { type Answer, isRefused, type Transport } from './transports.ts'
import { tried } from './tried.ts'

/** What is an id of nothing. */
const malformed = ['nonsense', '', '\u0000', 'x'.repeat(10_000)]

/** For a test of many calls on a busy machine, in milliseconds. */
const timeout = 60_000

const advice = 'Add what makes a valid call of it to test/isolation/arguments.ts.'

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

for (const between of betweens)
  describe(`between ${between.title}`, () => encounters(between, ({ kind }) => kind !== 'subscription'))

// Most of their time streams are silent: they are listened to at once.
for (const between of betweens) {
  describe.concurrent(`between ${between.title}`, () => encounters(between, ({ kind }) => kind === 'subscription'))
}

function encounters(between: Between, isMeant: (what: { kind: Subject['kind'] }) => boolean): void {
  for (const subject of subjects.filter(isMeant)) {
    if (!isParted(subject.reference, between)) continue
    const title = `${subject.title} answers what is the other's as if it were not there`
    it(title, { tags: ['rule-12', ...subject.tags, ...between.tags], timeout }, async ({ expect, task }) => {
      const encounter = await place.meet(between)
      const before = await place.rowsOfOther(encounter)
      const { cases, leaks } = await compareAnswers(between, encounter, subject)
      const after = await place.rowsOfOther(encounter)
      if (!isDeepStrictEqual(after, before)) leaks.push({ before, after })
      tried(task, { cases, leaks: leaks.length })
      expect(leaks).toEqual([])
      const found = await someoneFindsTheirOwn(between, encounter, subject)
      expect(found, `Also one's own is answered as if it were not there, which proves nothing. ${advice}`).toBe(true)
    })
  }

  for (const operation of operations.filter(isMeant)) {
    const title = `${operation.kind} ${operation.name} shows each role its own, and changes nothing of the other's`
    it(title, { tags: ['rule-16', ...tagsOf(operation), ...between.tags], timeout }, async ({ expect, task }) => {
      const { answers, leaks } = await callAsEachRole(between, operation)
      tried(task, { cases: answers.length, leaks: leaks.length })
      expect(leaks).toEqual([])
      expect(answers.map(({ shown }) => shown).filter((shown) => shown.includes('"INTERNAL"'))).toEqual([])
      if (!between.callers.includes('ADMIN')) return
      const valid = answers.filter(({ which }) => which === 'every')
      const succeeded = valid.some((answer) => isSuccess(operation, answer))
      expect(succeeded, `Nobody could do it. ${advice}\n${valid.map(({ shown }) => shown).join('\n')}`).toBe(true)
    })
  }
}

/** Whether it can name anything that one of the two has and the other has not. */
function isParted(reference: Reference, { make }: Between): boolean {
  const { parted } = make()
  return reference.by === 'text'
    ? parted.includes(reference.model)
    : reference.types.some((type) => parted.includes(modelOf(type)))
}

/** Names that must be answered alike: `unknown` of nothing, the others of what the caller must not see. */
type Alike = { unknown: string; own: string; others: string[] }

/** The other's ids of other types, one's own of one, and ids of nothing are for one role: how an id is read is the same for all. */
function alikeBy(reference: Reference, { own, other, parted }: Encounter, role: RoleName, isThorough: boolean): Alike[] {
  if (reference.by === 'text') {
    const textOf = (party: Party) => rowOf(party, reference.model)[reference.column]
    const theirs = textOf(other)
    return [{ unknown: newId(), own: String(textOf(own)), others: typeof theirs === 'string' ? [theirs] : [] }]
  }
  const types = reference.types.filter((type) => parted.includes(modelOf(type)))
  const wrong = (type: string) => {
    const others = typesWithId.filter((each) => each !== type)
    return [...others.slice(0, 1).map((each) => idOf(own, each)), ...others.map((each) => idOf(other, each))]
  }
  return types.map((type) => ({
    unknown: encodeId(type as NodeType, newId()),
    own: idOf(own, type),
    others: [
      // Operators may see any tenant.
      ...(role === 'OPERATOR' && type === 'Tenant' ? [] : [idOf(other, type)]),
      ...(types.length === 1 && isThorough ? [...wrong(type), ...malformed] : []),
    ],
  }))
}

/** Asks for all that must be answered alike. The leaks are answers that differ, or tell of the other. */
async function compareAnswers(between: Between, encounter: Encounter, { reference, asks, isAbsence }: Subject) {
  const leaks: object[] = []
  let cases = 0
  for (const role of between.callers) {
    for (const { unknown, others } of alikeBy(reference, encounter, role, role === between.callers[0])) {
      // What a role is told does not depend on the way it asks.
      for (const [index, ask] of (role === between.callers[0] ? asks : asks.slice(0, 1)).entries()) {
        const askFor = (value: string) => ask(place.platform.url, encounter, role, value)
        const expected = await askFor(unknown)
        expect(expected, `An unknown id is not answered as nothing. ${advice}`).toSatisfy(isAbsence)
        const values = index === 0 ? others : others.slice(0, 1)
        const answers = await Promise.all(values.map(async (value) => ({ role, value, answer: await askFor(value) })))
        cases += answers.length
        for (const { value, answer } of answers) {
          if (answer.shown === expected.shown && !isTelling(answer, encounter, role)) continue
          leaks.push({ role, value, shown: answer.shown, expected: expected.shown })
        }
      }
    }
  }
  return { cases, leaks }
}

/** Whether any role is answered otherwise for what is its own, and told nothing of the other; so it is when none of them may ask. */
async function someoneFindsTheirOwn(between: Between, encounter: Encounter, { reference, asks: [ask] }: Subject) {
  let mayAsk = false
  for (const role of between.callers) {
    for (const { unknown, own } of alikeBy(reference, encounter, role, false)) {
      const [expected, answer] = [
        await ask(place.platform.url, encounter, role, unknown),
        await ask(place.platform.url, encounter, role, own),
      ]
      if (expected.shown.includes('"FORBIDDEN"')) continue
      mayAsk = true
      if (answer.shown !== expected.shown) return !isTelling(answer, encounter, role)
    }
  }
  return !mayAsk
}

/** Calls the operation validly as each role, for everything that it answers. The leaks are what it told of the other, or did to it. */
async function callAsEachRole(between: Between, operation: Operation) {
  const answers: (Answer & { which: 'every' | 'needed' })[] = []
  const leaks: object[] = []
  const query = documentOf(operation, 4)
  let encounter = await place.meet(between)
  let before = await place.rowsOfOther(encounter)
  const call = async (role: RoleName, which: 'every' | 'needed', transport: Transport) => {
    const variables = validVariables(operation, encounter.own, which)
    const answer = await transport({ url: place.platform.url, key: encounter.keys[role], query, variables })
    answers.push({ ...answer, which })
    if (isTelling(answer, encounter, role)) leaks.push({ role, variables, shown: answer.shown })
    return { role, variables, refused: isRefused(operation.name, answer) }
  }
  const compare = async (calls: object) => {
    const after = await place.rowsOfOther(encounter)
    if (!isDeepStrictEqual(after, before)) leaks.push({ calls, before, after })
  }
  // What a mutation takes for granted it does for whoever may make it.
  const waysOf = (role: RoleName): ('every' | 'needed')[] =>
    operation.kind === 'mutation' && role !== between.callers[0] ? ['every'] : ['every', 'needed']
  // What a role is told does not depend on the way it asks.
  const transportsFor = (role: RoleName, which: 'every' | 'needed') =>
    transportsOf(operation).slice(0, which === 'every' && role === between.callers[0] ? undefined : 1)
  const calls = between.callers.flatMap((role) =>
    waysOf(role).flatMap((which) => transportsFor(role, which).map((transport) => () => call(role, which, transport))),
  )
  if (operation.kind !== 'mutation') {
    // They change nothing, so they are made at once: some of them are streams, which are listened to until they fall silent.
    await compare(await Promise.all(calls.map((each) => each())))
    return { answers, leaks }
  }
  let isSpent = false
  for (const each of calls) {
    // Once done, a mutation may leave nothing to call another one with.
    if (isSpent) {
      encounter = await place.meet(between)
      before = await place.rowsOfOther(encounter)
    }
    const made = await each()
    await compare(made)
    isSpent = !made.refused
  }
  return { answers, leaks }
}

function isTelling({ shown }: Answer, { hiddenFrom }: Encounter, role: RoleName): boolean {
  return hiddenFrom(role).some((trace) => shown.includes(trace))
}

/** Whether it was done, or found; fields of it may be for other roles. */
function isSuccess({ kind, name }: Operation, { results }: Answer): boolean {
  return (
    results.length > 0 &&
    results.every(({ data, errors = [] }) => {
      const result = data?.[name] as { __typename?: string } | null | undefined
      const whole = errors.every(({ extensions }) => extensions?.['code'] === 'FORBIDDEN')
      return whole && result != null && (kind !== 'mutation' || String(result.__typename).endsWith('Payload'))
    })
  )
}
