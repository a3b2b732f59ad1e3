import type { UnitCost } from './cluster-load.ts'
import type { Report } from './report.ts'

/** What docs/scale.md plans for. */
const demand = { runsPerDay: 25_000_000, peakFactor: 3, streams: 20_000, tokensPerSecond: 50 }

/** How busy a core may be at the peak, so that queues stay short and the loss of a zone is borne. */
const busy = 0.6

export type PlannedComponent = { name: string; cost: UnitCost }

/** Runs and tokens per second at the peak. */
export function peakOf({ runsPerDay, peakFactor, streams, tokensPerSecond }: typeof demand): { runs: number; tokens: number } {
  return { runs: (runsPerDay / 86_400) * peakFactor, tokens: streams * tokensPerSecond }
}

/** Cores that a component uses at the peak. */
export function coresFor({ perRun, perToken }: UnitCost, peak: { runs: number; tokens: number }): number {
  return (perRun * peak.runs) / 1_000 + (perToken * peak.tokens) / 1_000_000
}

/** The arithmetic of docs/scale.md, with the costs that were just measured. */
export function planReport(components: readonly PlannedComponent[]): Report {
  const peak = peakOf(demand)
  const rows = components.map(({ name, cost }) => {
    const [runs, tokens] = [coresFor(cost, { runs: peak.runs, tokens: 0 }), coresFor(cost, { runs: 0, tokens: peak.tokens })]
    return [name, runs.toFixed(1), tokens.toFixed(1), (runs + tokens).toFixed(1), String(Math.ceil((runs + tokens) / busy))]
  })
  return {
    title: 'The plan, by these costs',
    setup: [
      `${demand.runsPerDay.toLocaleString('en')} runs a day are ${(demand.runsPerDay / 86_400).toFixed(0)} a second, at a peak of ${demand.peakFactor} times that ${peak.runs.toFixed(0)}; ${demand.streams.toLocaleString('en')} streams × ${demand.tokensPerSecond} tokens/s are ${peak.tokens.toLocaleString('en')} tokens/s.`,
      `Cores such as those of this machine; of each, ${busy * 100} % are used at the peak. A process of Node, PgBouncer or Redis uses about one.`,
    ],
    table: { columns: ['', 'cores for runs', 'cores for tokens', 'cores used', 'cores needed'], rows },
    verdicts: [],
  }
}
