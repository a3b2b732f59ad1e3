import type { Bench } from './bench.ts'
import { firstComeFirstServed, type Load, shares, simulate, turns } from './support/fairness-simulation.ts'
import type { Verdict } from './support/report.ts'
import { percentile } from './support/rounds.ts'

const load: Load = { slots: 100, baseLoad: 0.8, lightTenants: 50, burst: 5_000, seconds: 300 }

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
      const ratio = percentile(burst.toEnd, 0.95) / percentile(alone.toEnd, 0.95)
      for (const [when, waits] of [
        ['alone', alone],
        ['with the burst', burst],
      ] as const) {
        // biome-ignore format: pairs
        const figures = [0.5, 0.95, 0.99].map((part) => percentile(waits.toStart, part).toFixed(3))
        figures.push(percentile(waits.toEnd, 0.95).toFixed(2))
        rows.push([`${name}, ${when}`, ...figures, when === 'alone' ? '' : `${ratio.toFixed(2)}×`])
      }
      if (isGoal) {
        const measured = `${ratio.toFixed(2)}×`
        verdicts.push({
          row: 9,
          goal: `light tenants' p95 wait for an answer, by ${name}, ≤ 2× alone`,
          measured,
          met: ratio <= 2,
        })
      }
    }
    return [
      {
        title: 'Fairness',
        setup: [
          `Virtual time: ${load.slots} slots, ${load.baseLoad * 100} % of them kept busy by ${load.lightTenants} light tenants for ${load.seconds} s, runs of a second on average.`,
          `After a third of it another tenant queues ${load.burst.toLocaleString('en')} runs at once. Figures are the light tenants': how long a run waits to be started, which alone is next to nothing, and how long until it is done, of which the ratio is.`,
        ],
        table: { columns: ['', 'start p50 s', 'p95 s', 'p99 s', 'done p95 s', 'ratio'], rows },
        verdicts,
      },
    ]
  },
}
