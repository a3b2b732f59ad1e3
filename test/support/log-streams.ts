import { setTimeout as delay } from 'node:timers/promises'
import { newId, tenantIdOf } from '../../src/domain/ids.ts'
import type { EventLog, RunRef } from '../../src/domain/ports.ts'
import { type Cursor, compareCursors, isTerminal, type LoggedEvent, origin } from '../../src/domain/run-event.ts'
import { RunLog } from '../../src/domain/run-log.ts'

/** What a follower of a run's log has been told so far. */
export type LogFollower = {
  text: string
  /** How often its subscription was lost and made again. */
  losses: number
  /** The longest time between two events, in milliseconds. */
  longestPause: number
  ended: Promise<void>
}

export function newRun(): RunRef {
  return { tenantId: tenantIdOf(newId()), runId: newId() }
}

/** Follows a run by the log alone: never reads again unless an event is missing or the subscription was lost. */
export async function followLog(log: EventLog, run: RunRef): Promise<LogFollower> {
  const { promise: ended, resolve: end } = Promise.withResolvers<void>()
  const follower: LogFollower = { text: '', losses: 0, longestPause: 0, ended }
  let last: Cursor = origin
  let lastAt = performance.now()
  let reading = false

  const accept = ({ cursor, event }: LoggedEvent): boolean => {
    if (compareCursors(cursor, last) <= 0) return true
    if (cursor.seq !== (cursor.epoch === last.epoch ? last.seq + 1 : 1)) return false
    last = cursor
    follower.longestPause = Math.max(follower.longestPause, performance.now() - lastAt)
    lastAt = performance.now()
    if (event.type === 'TextDelta') follower.text += event.text
    if (event.type === 'StreamReset') follower.text = event.text
    if (isTerminal(event)) end()
    return true
  }
  const catchUp = async () => {
    if (reading) return
    reading = true
    for (let isRead = false; !isRead; ) {
      const backlog = await log.read(run, last).catch(() => null)
      isRead = backlog?.events.every(accept) ?? false
      if (!isRead) await delay(20)
    }
    reading = false
  }
  const receive = (events: LoggedEvent[]) => {
    if (!events.every(accept)) void catchUp()
  }
  await log.subscribe(run, receive, () => {
    follower.losses++
    void catchUp()
  })
  return follower
}

/** Writes a run's answer piece by piece, as a worker does. Ends early when `signal` says so, never in the middle of a piece. */
export async function writeAnswer(log: EventLog, run: RunRef, options: { every: number; signal: AbortSignal }) {
  const errors: unknown[] = []
  const runLog = new RunLog({
    ...{ eventLog: log, run, claim: 1, text: '' },
    onFenced: () => errors.push(new Error('It was fenced.')),
    onError: (error) => errors.push(error),
  })
  let text = ''
  for (let piece = 1; !options.signal.aborted; piece++) {
    const word = `${piece} `
    text += word
    runLog.write({ type: 'TextDelta', text: word })
    await delay(options.every)
  }
  const usage = { inputTokens: 1, cachedInputTokens: 0, outputTokens: 1, reasoningTokens: 0, estimated: false }
  await runLog.end({ type: 'RunCancelled', text, usage })
  return { text, errors }
}
