import { setTimeout as delay } from 'node:timers/promises'
import { median } from '../support/rounds.ts'
import type { Order, Reader, Streamer } from './contender.ts'
import { cpuMicros } from './processes.ts'

type Load = {
  /** Streams in flight: each reader asks again when its answer has ended. */
  streams: number
  order: Order
  /** Length of one contender's turn, once all its streams are in flight. */
  seconds: number
  /** Length of the first turn, which does not count: connects, lets V8 optimise what runs often. Default: a second. */
  warmUpSeconds?: number
  rounds: number
  onRound: (round: number) => void
}

/** What one contender did. The lists have one entry per round, so that rounds can be compared with each other. */
export type StreamsMeasured = {
  name: string
  /** Median milliseconds from the message to the first token. */
  firstToken: number[]
  /** All of them, ascending. */
  firstTokens: Float64Array
  /** When all that can be told of were begun, in milliseconds after they were asked for, ascending. */
  starts: Float64Array
  tokensPerSecond: number[]
  /** CPU time of the contender's processes per token, in microseconds. */
  cpuPerToken: number[]
  /** The same of its database. */
  databaseCpuPerToken: number[]
}

type Turn = { firstTokens: number[]; starts: number[]; tokensPerSecond: number; cpuPerToken: number; databaseCpuPerToken: number }

/** Gives the contenders turns, A B A B …, as `measure` does. */
export async function measureStreams(streamers: readonly Streamer[], load: Load): Promise<StreamsMeasured[]> {
  const turns = streamers.map((): Turn[] => [])
  const readers: Reader[][] = []
  try {
    for (const streamer of streamers) readers.push(await Promise.all(Array.from({ length: load.streams }, () => streamer.open())))
    const warmUp = { ...load, seconds: load.warmUpSeconds ?? 1 }
    for (const [index, streamer] of streamers.entries()) await takeTurn(streamer, readers[index] ?? [], warmUp)
    for (let round = 1; round <= load.rounds; round++) {
      load.onRound(round)
      for (const [index, streamer] of streamers.entries())
        turns[index]?.push(await takeTurn(streamer, readers[index] ?? [], load))
    }
  } finally {
    for (const reader of readers.flat()) reader.close()
  }
  return streamers.map(({ name }, index) => {
    const own = turns[index] ?? []
    return {
      name,
      firstToken: own.map(({ firstTokens }) => median(firstTokens)),
      firstTokens: Float64Array.from(own.flatMap(({ firstTokens }) => firstTokens)).sort(),
      starts: Float64Array.from(own.flatMap(({ starts }) => starts)).sort(),
      tokensPerSecond: own.map(({ tokensPerSecond }) => tokensPerSecond),
      cpuPerToken: own.map(({ cpuPerToken }) => cpuPerToken),
      databaseCpuPerToken: own.map(({ databaseCpuPerToken }) => databaseCpuPerToken),
    }
  })
}

async function takeTurn({ processes, database }: Streamer, readers: Reader[], { order, seconds }: Load): Promise<Turn> {
  // They begin one after the other over the time that an answer takes, or all would begin, and end, together.
  const ramp = readers.length === 1 ? 0 : Math.max(300, order.tokens * order.pause)
  const begin = performance.now() + ramp
  const end = begin + seconds * 1_000
  const firstTokens: number[] = []
  const starts: number[] = []
  let tokens = 0
  const cpu = () => Promise.all([cpuMicros(processes), cpuMicros(database)])
  const cpuAtBegin = delay(ramp).then(cpu)
  const cpuAtEnd = delay(ramp + seconds * 1_000).then(cpu)
  await Promise.all(
    readers.map(async (reader, index) => {
      await delay((ramp * index) / readers.length)
      for (;;) {
        await reader.prepare()
        const asked = performance.now()
        if (asked >= end) return
        const { firstToken, started } = await reader.ask(order)
        const done = performance.now()
        if (asked >= begin) firstTokens.push(firstToken)
        if (asked >= begin && started !== undefined) starts.push(started)
        // Only what lies between begin and end counts, as far as that can be told from outside.
        tokens += order.tokens * overlap(asked + firstToken, done, begin, end)
      }
    }),
  )
  const [before, after] = await Promise.all([cpuAtBegin, cpuAtEnd])
  const [cpuPerToken = 0, databaseCpuPerToken = 0] = after.map((time, index) => (time - (before[index] ?? 0)) / tokens)
  return { firstTokens, starts, tokensPerSecond: tokens / seconds, cpuPerToken, databaseCpuPerToken }
}

/** The part of an answer's time that lies in the turn. */
function overlap(from: number, to: number, begin: number, end: number): number {
  return Math.max(0, Math.min(to, end) - Math.max(from, begin)) / Math.max(to - from, 1e-3)
}
