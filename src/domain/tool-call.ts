import { createHash } from 'node:crypto'
import { uuidOfHex } from './ids.ts'
import { type Tool, type ToolCall, type ToolContext, ToolOutcomeUnknown } from './ports.ts'
import { storable } from './text-repair.ts'
import type { LedgerCall } from './tool-ledger.ts'

/** What a tool may take, in milliseconds. */
const longestCall = 30_000

/** What the model is told of a result at most, in characters. */
const longestResult = 16_000

/** How long a person can decide about a call, in milliseconds: seven days. */
const timeToDecide = 7 * 24 * 60 * 60 * 1_000

/** What a call came to. UNKNOWN: it may or may not have taken effect, and must not be made again without somebody knowing. */
export type CallEnd = { outcome: 'COMPLETED' | 'FAILED' | 'REFUSED'; content: string } | { outcome: 'UNKNOWN' }

/**
 * The calls of a turn as they enter the ledger: those that cannot be made are over, those that a person has to agree to wait, the others
 * are to be made.
 */
export function planToolCalls(
  { runId, turn, now }: { runId: string; turn: number; now: number },
  calls: readonly ToolCall[],
  tools: readonly Tool[],
): LedgerCall[] {
  return calls.map(({ id: callId, name, arguments: text }, place): LedgerCall => {
    const id = toolCallKey({ runId, turn, index: place })
    const call = { id, turn, place, callId, name, arguments: text, argumentsHash: hashOf(text), decidedAt: null, startedAt: null }
    const refused = (status: 'REFUSED' | 'FAILED', result: string) =>
      ({ ...call, status, result, expiresAt: null, finishedAt: new Date(now) }) as const
    const tool = tools.find((one) => one.name === name)
    if (!tool) return refused('REFUSED', unknownTool)
    const args = parseArguments(text)
    if (!args) return refused('FAILED', unreadable)
    const open = { ...call, result: null, finishedAt: null }
    return asksFirst(tool, args.value)
      ? { ...open, status: 'WAITING', expiresAt: decideUntil(now) }
      : { ...open, status: 'INTENDED', expiresAt: null }
  })
}

/** A rule that cannot be applied to the arguments does not let them pass. */
function asksFirst(tool: Tool, args: unknown): boolean {
  try {
    return tool.asksFirst(args)
  } catch {
    return true
  }
}

/** Until when a person who is asked now can decide. */
export function decideUntil(now: number): Date {
  return new Date(now + timeToDecide)
}

/**
 * Makes a call of the ledger. Never throws: the model is told what went wrong and goes on. A call that takes longer than 30 s, or that is
 * aborted, has failed if it can be repeated; of any other nobody knows.
 */
export async function executeToolCall(
  call: Pick<ToolCall, 'name' | 'arguments'>,
  tools: readonly Tool[],
  context: ToolContext,
): Promise<CallEnd> {
  const tool = tools.find(({ name }) => name === call.name)
  if (!tool) return { outcome: 'REFUSED', content: unknownTool }
  const args = parseArguments(call.arguments)
  if (!args) return { outcome: 'FAILED', content: unreadable }
  const bounded = AbortSignal.any([context.signal, AbortSignal.timeout(longestCall)])
  try {
    bounded.throwIfAborted()
    const content = await Promise.race([tool.call(args.value, { ...context, signal: bounded }), rejectOn(bounded)])
    return { outcome: 'COMPLETED', content: cut(content) }
  } catch (error) {
    const isUnknown = bounded.aborted || error instanceof ToolOutcomeUnknown
    if (isUnknown && !tool.isRepeatable) return { outcome: 'UNKNOWN' }
    const message = error instanceof Error ? error.message : String(error)
    return { outcome: 'FAILED', content: cut(bounded.aborted ? 'The tool took too long.' : message) }
  }
}

const unknownTool = 'There is no such tool.'
const unreadable = 'The arguments are not valid JSON.'

/** Some models send nothing for a tool without parameters. */
function parseArguments(text: string): { value: unknown } | null {
  try {
    return { value: JSON.parse(text.trim() || '{}') }
  } catch {
    return null
  }
}

/** For tools that do not mind the signal. */
function rejectOn(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    signal.throwIfAborted()
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
  })
}

function cut(text: string): string {
  const end = text.length > longestResult ? '… (the rest was cut off)' : ''
  return storable(text.slice(0, longestResult)) + end
}

function hashOf(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}

/** The call of a run by its place: the turn, counted from 0, and its index among the calls of the turn. A UUID of version 8 (RFC 9562). */
export function toolCallKey({ runId, turn, index }: { runId: string; turn: number; index: number }): string {
  const hash = hashOf(`${runId} ${turn} ${index}`)
  return uuidOfHex(`${hash.slice(0, 12)}8${hash.slice(13, 16)}a${hash.slice(17, 32)}`)
}
