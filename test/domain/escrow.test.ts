import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { Admission, QuotaCounts, QuotaTerms } from '../../src/domain/admission.ts'
import { Unavailable } from '../../src/domain/errors.ts'
import { Escrow, type EscrowedCall, settle } from '../../src/domain/escrow.ts'
import { newId, tenantIdOf } from '../../src/domain/ids.ts'
import type { QuotaOwner } from '../../src/domain/quota-terms.ts'
import { MemoryAdmission } from '../../src/memory/admission.ts'
import { scriptedModel } from '../support/scripted-model.ts'

const model = scriptedModel([])
const never = new AbortController().signal

/** A tenant with this budget and nobody else, whose counters are in memory unless others are given. */
function ownerWith(budget: number, change: Partial<Admission> = {}, spent = 0): QuotaOwner {
  const now = Date.now()
  const terms: QuotaTerms = {
    ...{ version: 0, validUntil: null, day: { start: now - 1e6, end: now + 1e8 }, month: { start: now - 1e6, end: now + 1e9 } },
    limits: {
      ...{ MESSAGES_PER_MINUTE: 1e6, MESSAGES_PER_DAY: 1e6, TOKENS_PER_MESSAGE: 1_000, CONCURRENT_SESSIONS: 100 },
      MONTHLY_TOKENS: budget,
    },
  }
  const counts: QuotaCounts = { recent: [], today: 0, spent, calls: [], sessions: [] }
  const memory = new MemoryAdmission({ onError: () => undefined })
  const bound = Object.fromEntries(
    (['admit', 'seed', 'release', 'hold', 'settle', 'renew', 'read', 'subscribe', 'count', 'erase'] as const).map((name) => [
      name,
      memory[name].bind(memory),
    ]),
  ) as unknown as Admission
  return {
    tenant: { id: tenantIdOf(newId()), limitsVersion: 0 },
    quotaSource: { terms: async () => terms, counts: async () => counts },
    ports: { admission: { ...bound, ...change } },
  }
}

function newCall(change: Partial<EscrowedCall> = {}): EscrowedCall {
  const runId = newId()
  return { runId, id: `${runId}/0/1`, model: 'gpt-4o-mini', inputTokens: 50, outputBound: 4_096, hasBegun: false, ...change }
}

async function quotaOf({ tenant, ports }: QuotaOwner) {
  const read = await ports.admission.read(tenant.id, 0)
  if (read.outcome !== 'read') throw new Error('The counters have nothing.')
  return read.quota
}

/** Says so many words of one token each, one after the other; how many were let through. */
async function sayWords(escrow: Escrow, words: number): Promise<number> {
  for (let word = 0; word < words; word++) if ((await escrow.cover(' the')) !== ' the') return word
  await escrow.close()
  return words
}

describe('an escrow', () => {
  it('holds the input and a first slice in one round trip, and more as it is used', async () => {
    const memory = ownerWith(100_000)
    let holds = 0
    const hold: Admission['hold'] = (...args) => {
      holds++
      return memory.ports.admission.hold(...args)
    }
    const owner = { ...memory, ports: { admission: { ...memory.ports.admission, hold } } }
    // The tenant is known to the counters, as after the message was admitted.
    await owner.ports.admission.seed(
      owner.tenant.id,
      await markOf(owner),
      await owner.quotaSource.terms(0),
      await countsOf(owner),
    )
    const escrow = new Escrow(owner, model, newCall())
    expect(await escrow.open(never)).toEqual({ outcome: 'held' })
    expect(holds).toBe(1)
    expect(await quotaOf(owner)).toMatchObject({ reserved: 50 + 64, sessions: 1 })
    expect(await sayWords(escrow, 900)).toBe(900)
    const { reserved } = await quotaOf(owner)
    expect(reserved).toBeGreaterThanOrEqual(50 + 900)
    expect(reserved).toBeLessThanOrEqual(50 + 900 + 256)
    // In slices of 256, and not for each word.
    expect(holds).toBeLessThanOrEqual(8)
  })

  it('asks the model for no more than a message may have, nor than is left', async () => {
    const plenty = new Escrow(ownerWith(100_000), model, newCall())
    await plenty.open(never)
    expect(plenty).toMatchObject({ outputBound: 1_000, isShort: false })
    const modest = new Escrow(ownerWith(100_000), model, newCall({ outputBound: 30 }))
    await modest.open(never)
    expect(modest).toMatchObject({ outputBound: 30, isShort: false })
    const short = new Escrow(ownerWith(400, {}, 100), model, newCall())
    await short.open(never)
    expect(short).toMatchObject({ outputBound: 250, isShort: true })
  })

  it('lets nothing through that is not held: the budget ends the answer in the middle of a piece', async () => {
    const owner = ownerWith(300)
    const escrow = new Escrow(owner, model, newCall())
    await escrow.open(never)
    expect(await escrow.cover(' the'.repeat(100))).toBe(' the'.repeat(100))
    expect(await escrow.cover(' the'.repeat(1_000))).toBe(' the'.repeat(150))
    expect(await escrow.cover(' the')).toBe('')
    expect(await quotaOf(owner)).toMatchObject({ reserved: 300 })
  })

  it('cuts no character in half', async () => {
    const escrow = new Escrow(ownerWith(50 + 20), model, newCall())
    await escrow.open(never)
    const covered = await escrow.cover('👩‍🚀🦄'.repeat(100))
    expect(covered.length).toBeGreaterThan(0)
    expect(covered.isWellFormed()).toBe(true)
  })

  it('of a model that hides its reasoning holds all that it may write', async () => {
    const owner = ownerWith(100_000)
    const escrow = new Escrow(owner, scriptedModel([], { hidesReasoning: true }), newCall({ outputBound: 900 }))
    await escrow.open(never)
    expect(await quotaOf(owner)).toMatchObject({ reserved: 950 })
  })

  it('is refused when not even a beginning fits, and says from when on it will', async () => {
    const owner = ownerWith(1_000, {}, 940)
    const { month } = await owner.quotaSource.terms(0)
    expect(await new Escrow(owner, model, newCall()).open(never)).toEqual({ outcome: 'exhausted', resumeAt: month.end })
    expect(await quotaOf(owner)).toMatchObject({ reserved: 0, spent: 940 })
  })

  it('waits a moment for what others only hold', async () => {
    const owner = ownerWith(1_000)
    const [first, second] = [newCall({ inputTokens: 930 }), newCall()]
    await new Escrow(owner, model, first).open(never)
    const opening = new Escrow(owner, model, second).open(never)
    setTimeout(
      () =>
        void settle(owner, {
          runId: first.runId,
          calls: [{ id: first.id, tokens: 400, at: Date.now(), isOurs: true }],
          leave: 1,
        }),
      100,
    )
    expect(await opening).toEqual({ outcome: 'held' })
  })

  it('waits for the counters before the answer begins, until it is stopped, and not once it has', async () => {
    let isAway = true
    const away = async () => {
      throw new Unavailable('Away.', 1)
    }
    const memory = ownerWith(300)
    const hold: Admission['hold'] = (...args) => (isAway ? away() : memory.ports.admission.hold(...args))
    const owner = { ...memory, ports: { admission: { ...memory.ports.admission, hold } } }

    const stop = new AbortController()
    const stopped = new Escrow(owner, model, newCall()).open(stop.signal)
    stop.abort(new Error('cancelled'))
    await expect(stopped).rejects.toThrow('cancelled')

    const goingOn = new Escrow(owner, model, newCall({ hasBegun: true }))
    expect(await goingOn.open(never)).toEqual({ outcome: 'held' })
    expect(await goingOn.cover('said all the same')).toBe('said all the same')

    const waiting = new Escrow(owner, model, newCall()).open(never)
    setTimeout(() => (isAway = false), 300)
    expect(await waiting).toEqual({ outcome: 'held' })
  })

  it('goes on while the counters are away, and holds what was said once they are back', async () => {
    let isAway = false
    const memory = ownerWith(100_000)
    const hold: Admission['hold'] = async (...args) => {
      if (isAway) throw new Unavailable('Away.', 1)
      return memory.ports.admission.hold(...args)
    }
    const owner = { ...memory, ports: { admission: { ...memory.ports.admission, hold } } }
    const escrow = new Escrow(owner, model, newCall())
    await escrow.open(never)
    isAway = true
    expect(await sayWords(escrow, 500)).toBe(500)
    expect((await quotaOf(owner)).reserved).toBeLessThan(500)
    isAway = false
    await expect
      .poll(
        async () => {
          await sayWords(escrow, 1)
          return (await quotaOf(owner)).reserved
        },
        { timeout: 10_000, interval: 100 },
      )
      .toBeGreaterThanOrEqual(551)
  })

  it('never holds more than the budget nor lets more through than is held, whoever says what in which pieces', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 100, max: 5_000 }),
        fc.array(fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1, maxLength: 15 }), { minLength: 1, maxLength: 6 }),
        async (budget, answers) => {
          const owner = ownerWith(budget)
          const said = await Promise.all(
            answers.map(async (pieces) => {
              const call = newCall({ hasBegun: true })
              const escrow = new Escrow(owner, model, call)
              const opened = await Promise.race([escrow.open(AbortSignal.timeout(50)), timeoutAsExhausted()]).catch(() => null)
              if (opened?.outcome !== 'held') return { call, words: 0, input: 0, isCut: true }
              let words = 0
              for (const piece of pieces) {
                const covered = (await escrow.cover(' the'.repeat(piece))).length / 4
                words += covered
                expect((await quotaOf(owner)).reserved).toBeLessThanOrEqual(budget)
                if (covered < piece) return { call, words, input: 50, isCut: true }
              }
              await escrow.close()
              return { call, words, input: 50, isCut: false }
            }),
          )
          const total = said.reduce((sum, { words, input }) => sum + words + input, 0)
          expect(total).toBeLessThanOrEqual(budget)
          for (const { call, words, input } of said) {
            await settle(owner, {
              runId: call.runId,
              calls: [{ id: call.id, tokens: input + words, at: Date.now(), isOurs: true }],
              leave: 1,
            })
          }
          expect(await quotaOf(owner)).toMatchObject({ spent: total, reserved: 0, sessions: 0 })
        },
      ),
      { numRuns: 60, endOnFailure: true },
    )
  }, 60_000)
})

const timeoutAsExhausted = () => new Promise<null>((resolve) => setTimeout(() => resolve(null), 60))

async function markOf({ tenant, ports }: QuotaOwner): Promise<number> {
  const read = await ports.admission.read(tenant.id, 0)
  return read.outcome === 'unseeded' ? read.mark : 0
}

async function countsOf({ quotaSource }: QuotaOwner): Promise<QuotaCounts> {
  return quotaSource.counts(await quotaSource.terms(0), 0)
}
