import { expect, test } from 'vitest'
import { firstComeFirstServed, type Load, shares, simulate, turns } from '../../bench/support/fairness-simulation.ts'
import { percentile } from '../../bench/support/rounds.ts'

const load: Load = { slots: 20, baseLoad: 0.8, lightTenants: 20, burst: 1_000, seconds: 150 }

test('one tenant that queues 1,000 runs keeps others waiting where the first is served first', async () => {
  const { toStart } = await simulate(firstComeFirstServed, load)
  expect(percentile(toStart, 0.95)).toBeGreaterThan(10)
})

test.each([
  { name: 'the run queue', discipline: turns },
  { name: "a model's slots", discipline: shares },
])('with $name others have their answers within twice the time that they take without it', async ({ discipline }) => {
  const alone = await simulate(discipline, { ...load, burst: 0 })
  const burst = await simulate(discipline, load)
  expect(percentile(burst.toEnd, 0.95)).toBeLessThanOrEqual(2 * percentile(alone.toEnd, 0.95))
  expect(percentile(burst.toStart, 0.95)).toBeLessThan(2)
})
