import type { FinishReason } from '../data/generated/enums.ts'
import type { ReplyEvent } from '../domain/agent-reply.ts'
import { builder } from './builder.ts'
import { encodeId } from './global-id.ts'
import { existing } from './loader.ts'
import { Message, messages } from './message.ts'
import { Run, RunFailure, RunStatus, runs } from './run.ts'
import { TokenUsage } from './usage.ts'

type EventOf<Type extends ReplyEvent['type']> = Extract<ReplyEvent, { type: Type }>

const authScopes = { endUser: true } as const

const cursor = {
  description: 'Where the stream stands after this event. Pass it as `after` to go on from here; it never expires.',
} as const

const usage = { type: TokenUsage, description: 'Tokens of all model calls of the run.' } as const

const textSoFar = { description: 'What the agent had written until then.' } as const

const TextDelta = builder.objectRef<EventOf<'TextDelta'>>('TextDelta').implement({
  description: 'The agent wrote more.',
  authScopes,
  fields: (t) => ({
    cursor: t.exposeString('cursor', cursor),
    text: t.exposeString('text', { description: 'What to append to the text so far.' }),
  }),
})

const ToolCallStarted = builder.objectRef<EventOf<'ToolCallStarted'>>('ToolCallStarted').implement({
  description: 'The agent called a tool.',
  authScopes,
  fields: (t) => ({
    cursor: t.exposeString('cursor', cursor),
    toolCallId: t.exposeString('toolCallId', { description: 'Names this call within the run.' }),
    name: t.exposeString('name', { description: 'The tool.' }),
    arguments: t.exposeString('arguments', { description: 'What it was called with: JSON, as the model wrote it.' }),
  }),
})

const ToolCallOutcome = builder.enumType('ToolCallOutcome', {
  description: 'How a tool call ended. The agent goes on in any case.',
  values: {
    COMPLETED: { description: 'The tool answered.' },
    FAILED: { description: 'The tool failed.' },
    REFUSED: { description: 'The agent may not use that tool.' },
    REJECTED: { description: 'Nobody agreed to the call, so it was not made.' },
    UNKNOWN: { description: 'The call may have been made, and nobody agreed to making it again.' },
  } satisfies Record<EventOf<'ToolCallFinished'>['outcome'], { description: string }>,
})

const ToolCallFinished = builder.objectRef<EventOf<'ToolCallFinished'>>('ToolCallFinished').implement({
  description: 'A tool call ended.',
  authScopes,
  fields: (t) => ({
    cursor: t.exposeString('cursor', cursor),
    toolCallId: t.exposeString('toolCallId', { description: 'The call, as in ToolCallStarted.' }),
    outcome: t.expose('outcome', { type: ToolCallOutcome, description: 'How it ended.' }),
  }),
})

const ApprovalRequested = builder.objectRef<EventOf<'ApprovalRequested'>>('ApprovalRequested').implement({
  description:
    'A person has to decide whether a tool is called, by approveToolCall or rejectToolCall. The run waits once all else of its turn is done.',
  authScopes,
  fields: (t) => ({
    cursor: t.exposeString('cursor', cursor),
    approvalId: t.id({
      description: 'What is to be decided, for approveToolCall and rejectToolCall.',
      resolve: ({ approvalId }) => encodeId('Approval', approvalId),
    }),
    toolCallId: t.exposeString('toolCallId', { description: 'The call, as in ToolCallStarted once it is made.' }),
    name: t.exposeString('name', { description: 'The tool.' }),
    arguments: t.exposeString('arguments', { description: 'What it would be called with: JSON, as the model wrote it.' }),
    argumentsHash: t.exposeString('argumentsHash', {
      description: 'SHA-256 of the arguments in hexadecimal. Whoever decides says it back.',
    }),
    mayHaveHappened: t.exposeBoolean('mayHaveHappened', {
      description: 'Whether the call may have been made already, so that making it may be making it twice.',
    }),
    expiresAt: t.field({
      type: 'DateTime',
      description: 'Until when it can be decided. From then on it counts as rejected.',
      resolve: ({ expiresAt }) => new Date(expiresAt),
    }),
  }),
})

const StreamReset = builder.objectRef<EventOf<'StreamReset'>>('StreamReset').implement({
  description: 'The answer goes on from an earlier place, as when another worker took the run over.',
  authScopes,
  fields: (t) => ({
    cursor: t.exposeString('cursor', cursor),
    text: t.exposeString('text', { description: 'Replaces everything shown so far.' }),
  }),
})

const Snapshot = builder.objectRef<EventOf<'Snapshot'>>('Snapshot').implement({
  description: 'Stands for all events up to its cursor, when they are no longer kept.',
  authScopes,
  fields: (t) => ({
    cursor: t.exposeString('cursor', cursor),
    text: t.exposeString('text', { description: 'Replaces everything shown so far.' }),
    run: t.field({
      type: Run,
      description: 'The run as it stands now.',
      resolve: ({ runId }, _args, context) => existing('run', runs(context).load(runId)),
    }),
  }),
})

const RunPaused = builder.objectRef<EventOf<'RunPaused'>>('RunPaused').implement({
  description: 'The run waits. The stream stays open, for as long as that takes.',
  authScopes,
  fields: (t) => ({
    cursor: t.exposeString('cursor', cursor),
    status: t.expose('status', { type: RunStatus, description: 'What it waits for: PAUSED_BUDGET or WAITING_APPROVAL.' }),
    resumeAt: t.field({
      type: 'DateTime',
      description:
        'When what it waits for comes by itself. Of PAUSED_BUDGET, when the month ends and the budget begins anew: the run goes on when somebody resumes it. Of WAITING_APPROVAL, when the first request expires: the run goes on once nothing waits any more.',
      resolve: ({ resumeAt }) => new Date(resumeAt),
    }),
  }),
})

const RunResumed = builder.objectRef<EventOf<'RunResumed'>>('RunResumed').implement({
  description: 'The run goes on after it had waited.',
  authScopes,
  fields: (t) => ({ cursor: t.exposeString('cursor', cursor) }),
})

const FinishReasonName = builder.enumType('FinishReason', {
  description: 'Why an answer ended.',
  values: {
    STOP: { description: 'The agent had said what it had to say.' },
    LENGTH: { description: 'It reached the bound on output tokens.' },
    TURNS: { description: 'It reached the bound on turns.' },
    BUDGET: { description: 'The month’s tokens were used up. The reply is what they allowed, which may be nothing.' },
    REFUSAL: { description: 'The model declined to answer.' },
  } satisfies Record<FinishReason, { description: string }>,
})

const RunCompleted = builder.objectRef<EventOf<'RunCompleted'>>('RunCompleted').implement({
  description: 'The run ended with a reply. The stream ends here.',
  authScopes,
  fields: (t) => ({
    cursor: t.exposeString('cursor', cursor),
    message: t.field({
      type: Message,
      description: 'The reply, as it is stored.',
      resolve: ({ messageId }, _args, context) => existing('message', messages(context).load(messageId)),
    }),
    finishReason: t.expose('finishReason', { type: FinishReasonName, description: 'Why the answer ended.' }),
    usage: t.expose('usage', usage),
  }),
})

const RunFailed = builder.objectRef<EventOf<'RunFailed'>>('RunFailed').implement({
  description: 'The run ended without a reply. The stream ends here.',
  authScopes,
  fields: (t) => ({
    cursor: t.exposeString('cursor', cursor),
    failure: t.expose('failure', { type: RunFailure, description: 'Why.' }),
    usage: t.expose('usage', usage),
  }),
})

const RunCancelled = builder.objectRef<EventOf<'RunCancelled'>>('RunCancelled').implement({
  description: 'The run was cancelled. The stream ends here.',
  authScopes,
  fields: (t) => ({
    cursor: t.exposeString('cursor', cursor),
    text: t.exposeString('text', textSoFar),
    usage: t.expose('usage', usage),
  }),
})

const RunInterrupted = builder.objectRef<EventOf<'RunInterrupted'>>('RunInterrupted').implement({
  description: 'The run ended half-way: another message took its place, or it could not be taken up again. The stream ends here.',
  authScopes,
  fields: (t) => ({
    cursor: t.exposeString('cursor', cursor),
    text: t.exposeString('text', textSoFar),
    usage: t.expose('usage', usage),
  }),
})

const Lagged = builder.objectRef<EventOf<'Lagged'>>('Lagged').implement({
  description: 'You read too slowly, so the stream ends here. The run goes on: subscribe again.',
  authScopes,
  fields: (t) => ({
    cursor: t.exposeString('cursor', cursor),
    resumeAfter: t.exposeString('resumeAfter', { description: 'What to pass as `after` to miss nothing.' }),
  }),
})

/** What agentReply delivers. */
export const RunEvent = builder.unionType('RunEvent', {
  description:
    'What happens in a run. RunCompleted, RunFailed, RunCancelled and RunInterrupted end the run and the stream; Lagged ends the stream alone.',
  types: [
    TextDelta,
    ToolCallStarted,
    ToolCallFinished,
    ApprovalRequested,
    StreamReset,
    Snapshot,
    RunPaused,
    RunResumed,
    RunCompleted,
    RunFailed,
    RunCancelled,
    RunInterrupted,
    Lagged,
  ],
  resolveType: (event) => event.type,
})
