import fc from 'fast-check'

/** Which thing a step is about: one of those that the actor made, or that anybody made. */
export type Aim = { mine: boolean; at: number }

/** Something that an actor does through the API. What it takes is drawn from a few values, so that actors collide. */
export type Step =
  | { does: 'create'; title: string; key: string | null }
  | { does: 'rename'; aim: Aim; title: string }
  | { does: 'delete'; aim: Aim }
  | { does: 'say'; aim: Aim; words: string; key: string | null }
  | { does: 'cancel'; aim: Aim }
  | { does: 'follow'; aim: Aim }
  | { does: 'configure'; aim: Aim; temperature: number }
  | { does: 'issueKey'; name: string }
  | { does: 'revokeKey'; aim: Aim }
  | { does: 'look'; aim: Aim }
  | { does: 'list' }

const aim = fc.record({ mine: fc.boolean(), at: fc.nat(20) })
const text = fc.constantFrom('one', 'two', 'three')
const key = fc.option(fc.constantFrom('key-1', 'key-2'), { freq: 2 })

function step<Does extends Step['does']>(does: Does, fields: object = {}): fc.Arbitrary<Step> {
  return fc.record({ does: fc.constant(does), ...fields }) as fc.Arbitrary<Step>
}

const anyStep: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: step('create', { title: text, key }) },
  { weight: 4, arbitrary: step('say', { aim, words: text, key }) },
  { weight: 2, arbitrary: step('rename', { aim, title: text }) },
  { weight: 1, arbitrary: step('delete', { aim }) },
  { weight: 2, arbitrary: step('cancel', { aim }) },
  { weight: 3, arbitrary: step('follow', { aim }) },
  { weight: 1, arbitrary: step('configure', { aim, temperature: fc.constantFrom(0, 1, 2) }) },
  { weight: 1, arbitrary: step('issueKey', { name: text }) },
  { weight: 1, arbitrary: step('revokeKey', { aim }) },
  { weight: 4, arbitrary: step('look', { aim }) },
  { weight: 2, arbitrary: step('list') },
)

/** Three tenants' admins, and two end users of a fourth tenant. */
export type Who = 'anna' | 'ben' | 'carla' | 'ursula' | 'uwe'

/** What they do at the same time, one step each at most. */
export type Round = Partial<Record<Who, Step>>

export const anyRounds: fc.Arbitrary<Round[]> = fc.array(
  fc.record({ anna: anyStep, ben: anyStep, carla: anyStep, ursula: anyStep, uwe: anyStep }, { requiredKeys: [] }),
  { minLength: 1, maxLength: 12, size: 'max' },
)
