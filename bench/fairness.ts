import type { Bench } from './bench.ts'
import { firstComeFirstServed, type Load, shares, simulate, turns } from './support/fairness-simulation.ts'
import type { Verdict } from './support/report.ts'
import { percentile } from './support/rounds.ts'

const load: Load = { slots: 100, baseLoad: 0.8, lightTenants: 50, burst: 5_000, seconds: 300 }

/** Below this nobody notices, and a ratio of two such waits says nothing. Seconds. */
const noticed = 0.1

/** How long the others wait while one tenant queues thousands of runs, by the order in which runs are taken. */
export const fairness: Bench = {
  summary: "what a burst of one tenant's runs does to the others' waits, simulated",
  async run({ progress }) {
    const disciplines = [
      { name: 'first come, first served', discipline: firstComeFirstServed, isGoal: false },
      { name: 'the run queue', discipline: turns, isGoal: true },
      { name: "a model's slots", discipline: shares, isGoal: true },
    ]
    const rows: string[][] = []
    const verdicts: Verdict[] = []
    for (const { name, discipline, isGoal } of disciplines) {
      progress(`fairness: ${name}`)
      const alone = await simulate(discipline, { ...load, burst: 0 })
      const burst = await simulate(discipline, load)
      const ratio = (part: number) => Math.max(noticed, percentile(burst, part)) / Math.max(noticed, percentile(alone, part))
      for (const [when, waits] of [['alone', alone], ['with the burst', burst]] as const) { // biome-ignore format: pairs
        const figures = [0.5, 0.95, 0.99].map((part) => percentile(waits, part).toFixed(3))
        rows.push([`${name}, ${when}`, ...figures, when === 'alone' ? '' : `${ratio(0.95).toFixed(2)}×`])
      }
      if (isGoal) {
        const measured = `${ratio(0.95).toFixed(2)}×`
        verdicts.push({ row: 9, goal: `light tenants' p95 wait in ${name} ≤ 2× alone`, measured, met: ratio(0.95) <= 2 })
      }
    }
    return [
      {
        title: 'Fairness',
        setup: [
          `Virtual time: ${load.slots} slots, ${load.baseLoad * 100} % of them kept busy by ${load.lightTenants} light tenants for ${load.seconds} s, runs of a second on average.`,
          `After a third of it another tenant queues ${load.burst.toLocaleString('en')} runs at once. Waits are those of the light tenants, in seconds, ratios of p95; below ${noticed} s counts as ${noticed} s.`,
        ],
        table: { columns: ['', 'p50 s', 'p95 s', 'p99 s', 'ratio'], rows },
        verdicts,
      },
    ]
  },
}
