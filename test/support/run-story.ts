import { followRun, type ReplyEvent } from '../../src/domain/agent-reply.ts'
import { createConversation } from '../../src/domain/conversation.ts'
import { type SentMessage, sendMessage } from '../../src/domain/message.ts'
import type { Model } from '../../src/domain/ports.ts'
import { RunWorker, type RunWorkerOptions } from '../../src/domain/run-worker.ts'
import type { Scope } from '../../src/domain/scope.ts'
import type { Story } from './story.ts'

/** A worker that stops at the end of the block that has it. What went wrong in its background fails that block. */
export type TestWorker = AsyncDisposable & { worker: RunWorker; errors: unknown[] }

type WorkOptions = Partial<RunWorkerOptions> & {
  model?: Model
  /** How long runs may go on when the worker stops, in milliseconds. Default 0. */
  grace?: number
}

/** Timing for tests of what happens when something is lost. */
export const impatient = { heartbeat: 50, deadAfter: 400, sweep: 50, overdueAfter: 50, watch: 50 }

/** Starts a worker of `story` with a model of its own. */
export async function startWorker(story: Story, { model, grace = 0, ...options }: WorkOptions = {}): Promise<TestWorker> {
  const errors: unknown[] = []
  const ports = { ...story.ports, ...options.ports, model: model ?? story.ports.model }
  const worker = new RunWorker({ ...story, onError: (error) => void errors.push(error), ...options, ports })
  await worker.start()
  return {
    worker,
    errors,
    async [Symbol.asyncDispose]() {
      await worker.drain(grace)
      if (errors.length > 0) throw new AggregateError(errors, 'The worker failed in the background.')
    },
  }
}

/** Says `content` in the conversation, or in a new one. */
export async function ask(scope: Scope, content = 'Hello?', conversationId?: string): Promise<SentMessage> {
  const id = conversationId ?? (await createConversation(scope, {})).id
  return sendMessage(scope, { conversationId: id, content })
}

/** Follows a run to the end of its stream. */
export async function follow(scope: Scope, runId: string, after: string | null = null, silence = 5_000): Promise<ReplyEvent[]> {
  const events: ReplyEvent[] = []
  const signal = new AbortController().signal
  for await (const event of followRun(scope, runId, after, signal, { silence })) events.push(event)
  return events
}

/** What a client that has `text` shows after these events. */
export function shownAfter(events: readonly ReplyEvent[], text = ''): string {
  return events.reduce((shown, event) => {
    if (event.type === 'TextDelta') return shown + event.text
    return event.type === 'Snapshot' || event.type === 'StreamReset' ? event.text : shown
  }, text)
}

/** Resolves once `holds` does. Throws after five seconds. */
export async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 5_000
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error('It did not come true in five seconds.')
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}
