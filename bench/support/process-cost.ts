import { readFile } from 'node:fs/promises'

/** The clock ticks of /proc, per second: fixed for programs, whatever the kernel's own. */
const ticksPerSecond = 100

/** What processes have used so far, user and system, in milliseconds, and what they hold, in bytes. */
export type Cost = { cpuMillis: number; bytes: number; processes: number }

/**
 * The cost of these processes with all their descendants, also of those that have ended and were waited for. Memory that several
 * share counts once. Linux only, as /proc is; a process that is gone costs nothing.
 */
export async function costOf(pids: readonly number[]): Promise<Cost> {
  const costs = await Promise.all(pids.map(costOfTree))
  return costs.reduce(add, { cpuMillis: 0, bytes: 0, processes: 0 })
}

function add(one: Cost, other: Cost): Cost {
  return {
    cpuMillis: one.cpuMillis + other.cpuMillis,
    bytes: one.bytes + other.bytes,
    processes: one.processes + other.processes,
  }
}

async function costOfTree(pid: number): Promise<Cost> {
  const [stat, memory, children] = await Promise.all([
    textOf(`/proc/${pid}/stat`),
    textOf(`/proc/${pid}/smaps_rollup`),
    textOf(`/proc/${pid}/task/${pid}/children`),
  ])
  if (stat === '') return { cpuMillis: 0, bytes: 0, processes: 0 }
  const kilobytes = Number(/^Pss:\s+(\d+) kB/m.exec(memory)?.[1] ?? 0)
  const own = { cpuMillis: cpuMillisIn(stat), bytes: kilobytes * 1_024, processes: 1 }
  const below = await Promise.all(children.split(' ').filter(Boolean).map(Number).map(costOfTree))
  return below.reduce(add, own)
}

/** Of a line of /proc/<pid>/stat (man 5 proc): utime, stime, and those of children that were waited for. */
export function cpuMillisIn(stat: string): number {
  // The name, in parentheses, may hold anything.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const [utime, stime, cutime, cstime] = fields.slice(11, 15).map(Number)
  return (((utime ?? 0) + (stime ?? 0) + (cutime ?? 0) + (cstime ?? 0)) * 1_000) / ticksPerSecond
}

function textOf(path: string): Promise<string> {
  return readFile(path, 'utf8').catch(() => '')
}
