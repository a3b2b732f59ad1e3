import pg from 'pg'
import { markLog } from './cluster-storage.ts'
import type { Component } from './platform-cluster.ts'
import { type Cost, costOf } from './process-cost.ts'

/** What is measured of the whole in one go. `name` to the cost of each component. */
type Mark = { at: number; costs: Map<string, Cost>; wal: number; commits: number }

/** What happened between two marks. CPU is in milliseconds, `bytes` what was held at the end. */
export type Interval = {
  seconds: number
  components: { name: string; cpuMillis: number; bytes: number; processes: number }[]
  wal: number
  commits: number
}

/** Marks the beginning of an interval; what it answers marks its end. */
export async function startInterval(components: readonly Component[], adminUrl: string): Promise<() => Promise<Interval>> {
  const before = await mark(components, adminUrl)
  return async () => {
    const after = await mark(components, adminUrl)
    return {
      seconds: (after.at - before.at) / 1_000,
      components: components.map(({ name }) => {
        const { cpuMillis = 0, bytes = 0, processes = 0 } = after.costs.get(name) ?? {}
        return { name, cpuMillis: cpuMillis - (before.costs.get(name)?.cpuMillis ?? 0), bytes, processes }
      }),
      wal: after.wal - before.wal,
      commits: after.commits - before.commits,
    }
  }
}

async function mark(components: readonly Component[], adminUrl: string): Promise<Mark> {
  const admin = new pg.Client({ connectionString: adminUrl })
  await admin.connect()
  const log = await markLog(admin)
  await admin.end()
  const costs = await Promise.all(components.map(async ({ name, pids }) => [name, await costOf(pids())] as const))
  return { at: performance.now(), costs: new Map(costs), ...log }
}

/** What was done in an interval: tokens that arrived, runs that ended. */
export type Load = { tokens: number; runs: number; seconds: number; cpuMillis: number }

/** CPU of one component: microseconds for each token, milliseconds for each run, and what it uses of a core while nothing happens. */
export type UnitCost = { perToken: number; perRun: number; idle: number }

/**
 * Tells the cost of a token from that of a run, given an interval in which nothing happened and two with answers of different
 * lengths: what was used beyond idling is `runs × perRun + tokens × perToken` in both.
 */
export function unitCost(idle: Load, short: Load, long: Load): UnitCost {
  const perSecond = idle.cpuMillis / idle.seconds
  const busy = (load: Load) => load.cpuMillis - perSecond * load.seconds
  const determinant = short.runs * long.tokens - long.runs * short.tokens
  return {
    perToken: ((short.runs * busy(long) - long.runs * busy(short)) / determinant) * 1_000,
    perRun: (busy(short) * long.tokens - busy(long) * short.tokens) / determinant,
    idle: perSecond / 1_000,
  }
}
