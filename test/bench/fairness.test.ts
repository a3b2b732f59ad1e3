import { expect, test } from 'vitest'
import { firstComeFirstServed, type Load, shares, simulate, turns } from '../../bench/support/fairness-simulation.ts'
import { percentile } from '../../bench/support/rounds.ts'

const load: Load = { slots: 20, baseLoad: 0.8, lightTenants: 20, burst: 1_000, seconds: 150 }

test('one tenant that queues 1,000 runs makes others wait for seconds where the first is served first', async () => {
  expect(percentile(await simulate(firstComeFirstServed, load), 0.95)).toBeGreaterThan(10)
})

test.each([
  { name: 'the run queue', discipline: turns },
  { name: "a model's slots", discipline: shares },
])('with $name others wait at most twice as long as without it', async ({ discipline }) => {
  const alone = percentile(await simulate(discipline, { ...load, burst: 0 }), 0.95)
  expect(alone).toBeGreaterThan(0)
  expect(percentile(await simulate(discipline, load), 0.95)).toBeLessThanOrEqual(2 * Math.max(0.1, alone))
})
