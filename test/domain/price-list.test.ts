import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { OperatorScope } from '../../src/domain/authenticate.ts'
import { Conflict, NotFound, ValidationProblem } from '../../src/domain/errors.ts'
import { newId } from '../../src/domain/ids.ts'
import { listPrices, type SetPriceInput, setPrice, setTenantPrice } from '../../src/domain/price-list.ts'
import { termsAt } from '../../src/domain/pricing.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { signInOperator } from '../support/operator.ts'
import { type Story, startStory } from '../support/story.ts'
import { asAdmin } from '../support/tenant-rows.ts'

const hour = 3_600_000

let story: Story
let operator: OperatorScope

beforeAll(async () => {
  story = await startStory({ ceiling: false })
  operator = await signInOperator(story)
})

afterAll(() => story.close())

const rates = (input: number) => ({ inputNanos: BigInt(input), cachedInputNanos: BigInt(input), outputNanos: BigInt(input) })
const at = (milliseconds: number) => new Date(Date.now() + milliseconds)
const set = (model: string, input: number, more: Partial<SetPriceInput> = {}) =>
  setPrice(operator, { model, ...rates(input), ...more })

/** What the tenant is charged for an input token of the model, some time from now; null when the model is refused. */
async function chargedIn({ db, tenant }: Scope, model: string, milliseconds = 1_000): Promise<number | null> {
  const terms = await termsAt(db, tenant.id, model, Date.now() + milliseconds)
  return terms && Number(terms.rates.inputNanos)
}

describe('the price list', () => {
  it('has versions, of which the one that began last holds until it ends', async () => {
    const { member } = await story.tenant()
    const model = `versions-${newId()}`
    expect(await chargedIn(member, model)).toBeNull()
    await set(model, 10)
    await set(model, 20, { validFrom: at(hour), validTo: at(2 * hour) })
    await set(model, 30, { validFrom: at(3 * hour) })
    const charged = [0, 0.5, 1.5, 2.5, 3.5].map((hours) => chargedIn(member, model, 1_000 + hours * hour))
    // The second took the place of the first for good: where it ends there is no price.
    expect(await Promise.all(charged)).toEqual([10, 10, 20, null, 30])
    expect((await listPrices(operator, model)).map(({ version, createdBy }) => [version, createdBy])).toEqual(
      [1, 2, 3].map((version) => [version, 'Olga']),
    )
  })

  it('is not changed by what it says already', async () => {
    const model = `same-${newId()}`
    const first = await set(model, 10)
    expect(await set(model, 10)).toEqual(first)
    const later = await set(model, 20, { validFrom: at(hour) })
    expect(await set(model, 20, { validFrom: later.price.validFrom })).toEqual(later)
    expect(await listPrices(operator, model)).toHaveLength(2)
  })

  it('takes the first of several that are set at once, and tells the others', async () => {
    const model = `race-${newId()}`
    const set10 = Array.from({ length: 10 }, (_, index) => set(model, index + 1))
    const done = await Promise.allSettled(set10)
    const versions = (await listPrices(operator, model)).map(({ version }) => version)
    expect(versions).toEqual(versions.map((_, index) => index + 1))
    expect(done.filter(({ status }) => status === 'fulfilled')).toHaveLength(versions.length)
    for (const each of done) if (each.status === 'rejected') expect(each.reason).toBeInstanceOf(Conflict)
  })

  it('charges a dated snapshot as its model, unless it has a price, and all else at the ceiling', async () => {
    const { member } = await story.tenant()
    const model = `model-${newId()}`
    await set(model, 10)
    expect(await chargedIn(member, `${model}-2026-01-31`)).toBe(10)
    await set(`${model}-2026-02-28`, 20)
    expect(await chargedIn(member, `${model}-2026-02-28`)).toBe(20)
    expect(await chargedIn(member, `other-${model}`)).toBeNull()
    await set('*', 999)
    expect(await chargedIn(member, `other-${model}`)).toBe(999)
    expect(await chargedIn(member, model)).toBe(10)
    await set(`other-${model}`, 0)
    expect(await chargedIn(member, `other-${model}`)).toBe(0)
    await asAdmin(story.database, (admin) => admin.query("delete from prices where model = '*'"))
  })

  it.each<[string, Partial<SetPriceInput>, string]>([
    ['a negative price', { outputNanos: -1n }, 'outputNanos'],
    ['an absurd price', { cachedInputNanos: 10n ** 12n }, 'cachedInputNanos'],
    ['a beginning in the past', { validFrom: at(-hour) }, 'validFrom'],
    ['a beginning before that of another', { validFrom: at(1_000) }, 'validFrom'],
    ['an end before the beginning', { validFrom: at(3 * hour), validTo: at(2 * hour) }, 'validTo'],
    ['a model that has no name', { model: '' }, 'model'],
    ['a model with a wild name', { model: 'gpt-*' }, 'model'],
  ])('refuses %s', async (_what, wrong, path) => {
    const model = `wrong-${newId()}`
    await set(model, 10, { validFrom: at(2 * hour) })
    const refused = set(model, 20, wrong)
    await expect(refused).rejects.toThrow(ValidationProblem)
    await expect(refused).rejects.toMatchObject({ path: [path] })
    expect(await listPrices(operator, model)).toHaveLength(1)
  })
})

describe('what is agreed with a tenant', () => {
  it('holds for that tenant alone: a price of one model, a margin on it, or on all', async () => {
    const [acme, globex] = [await story.tenant(), await story.tenant()]
    const model = `agreed-${newId()}`
    await set(model, 100)
    const { id: tenantId } = acme.tenant
    const reason = 'The contract.'
    await setTenantPrice(operator, { tenantId, model: '*', marginBasisPoints: 2_000, reason })
    const termsOf = async ({ member }: { member: Scope }) => termsAt(member.db, member.tenant.id, model, Date.now() + 1_000)
    expect(await termsOf(acme)).toMatchObject({ rates: rates(100), agreed: { marginBasisPoints: 2_000 } })
    await setTenantPrice(operator, { tenantId, model, rates: rates(60), reason })
    expect(await termsOf(acme)).toMatchObject({ rates: rates(60), agreed: { marginBasisPoints: 0 }, listed: { model } })
    expect(await termsOf(globex)).toMatchObject({ rates: rates(100), agreed: null })
    // Back to the list.
    await setTenantPrice(operator, { tenantId, model, reason })
    expect(await termsOf(acme)).toMatchObject({ rates: rates(100), agreed: { version: 2 } })
    // A price of its own needs none in the list.
    await setTenantPrice(operator, { tenantId, model: `own-${model}`, rates: rates(7), reason })
    expect(await chargedIn(acme.member, `own-${model}`)).toBe(7)
    expect(await chargedIn(globex.member, `own-${model}`)).toBeNull()
  })

  it('is refused when it makes no sense, or there is no such tenant', async () => {
    const { tenant } = await story.tenant()
    const wrong = { tenantId: tenant.id, model: 'gpt-4o', reason: 'x' }
    await expect(setTenantPrice(operator, { ...wrong, tenantId: newId() })).rejects.toThrow(NotFound)
    for (const marginBasisPoints of [-10_001, 100_001, 1.5])
      await expect(setTenantPrice(operator, { ...wrong, marginBasisPoints })).rejects.toMatchObject({
        path: ['marginBasisPoints'],
      })
    await expect(setTenantPrice(operator, { ...wrong, model: '*', rates: rates(1) })).rejects.toMatchObject({ path: ['model'] })
    await expect(setTenantPrice(operator, { ...wrong, rates: rates(-1) })).rejects.toMatchObject({ path: ['inputNanos'] })
    await expect(setTenantPrice(operator, { ...wrong, reason: '' })).rejects.toMatchObject({ path: ['reason'] })
  })
})
