/** One way of doing the operation that is compared. */
export type Contender = {
  name: string
  /** One operation. It rejects when the operation did not do its work, so that no error is counted as a fast answer. */
  operation: () => Promise<unknown>
}

type RoundOptions = {
  /** Operations in flight: each caller starts its next one when the last has been answered. */
  callers: number
  /** Length of one contender's turn in each round. */
  seconds: number
  rounds: number
  /** Told before each round. */
  onRound?: (round: number) => void
}

/** What one contender did; the lists have one entry per round, so that rounds can be compared with each other. */
export type Measured = {
  name: string
  opsPerSecond: number[]
  /** CPU time of this process per operation, in microseconds, user and system, all its threads. */
  cpuMicros: number[]
  /** Every operation's latency in milliseconds, ascending. */
  latencies: Float64Array
}

/**
 * Gives the contenders turns, A B A B …, so that whatever else the machine does hits all of them alike. Absolute figures
 * move with the machine; the ratio of two turns of one round does not.
 */
export async function measure<const Contenders extends readonly Contender[]>(
  contenders: Contenders,
  options: RoundOptions,
): Promise<{ [Index in keyof Contenders]: Measured }> {
  const turns = contenders.map((): Turn[] => [])
  // Untimed: connects, prepares the statements on every connection, lets V8 optimise.
  for (const contender of contenders) await takeTurn(contender, options.callers, Math.max(0.5, options.seconds / 2))
  for (let round = 1; round <= options.rounds; round++) {
    options.onRound?.(round)
    for (const [index, contender] of contenders.entries()) {
      turns[index]?.push(await takeTurn(contender, options.callers, options.seconds))
    }
  }
  const measured = contenders.map(({ name }, index) => summarise(name, turns[index] ?? []))
  return measured as { [Index in keyof Contenders]: Measured }
}

/** How many times the work of `reference` was done by `measured`: the median of the ratios of each round. */
export function ratioOf(measured: Measured, reference: Measured): number {
  return median(measured.opsPerSecond.map((ops, round) => ops / (reference.opsPerSecond[round] ?? Number.NaN)))
}

export function median(values: readonly number[]): number {
  const sorted = Float64Array.from(values).sort()
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? at(sorted, middle) : (at(sorted, middle - 1) + at(sorted, middle)) / 2
}

/** The value that the fraction `part` of `sorted` does not exceed (nearest rank). */
export function percentile(sorted: Float64Array, part: number): number {
  return at(sorted, Math.max(0, Math.ceil(sorted.length * part) - 1))
}

type Turn = { operations: number; seconds: number; cpuMicros: number; latencies: number[] }

async function takeTurn({ operation }: Contender, callers: number, seconds: number): Promise<Turn> {
  const latencies: number[] = []
  const cpuBefore = process.cpuUsage()
  const start = performance.now()
  const end = start + seconds * 1_000
  const call = async () => {
    let now = performance.now()
    while (now < end) {
      await operation()
      const done = performance.now()
      latencies.push(done - now)
      now = done
    }
  }
  await Promise.all(Array.from({ length: callers }, call))
  const { user, system } = process.cpuUsage(cpuBefore)
  return { operations: latencies.length, seconds: (performance.now() - start) / 1_000, cpuMicros: user + system, latencies }
}

function summarise(name: string, turns: Turn[]): Measured {
  return {
    name,
    opsPerSecond: turns.map((turn) => turn.operations / turn.seconds),
    cpuMicros: turns.map((turn) => turn.cpuMicros / turn.operations),
    latencies: Float64Array.from(turns.flatMap((turn) => turn.latencies)).sort(),
  }
}

function at(values: Float64Array, index: number): number {
  return values[index] ?? Number.NaN
}
