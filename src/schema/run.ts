import type { Run as RunRow } from '../data/generated/client.ts'
import type { RunStatus as Status } from '../data/generated/enums.ts'
import { messagesByRun } from '../domain/message.ts'
import { cancelRun, findRun, listRuns, runsByIds, usageByRun } from '../domain/run.ts'
import type { RunFailure as Failure } from '../domain/run-event.ts'
import { resumeRun } from '../domain/run-resume.ts'
import { isFinished } from '../domain/run-status.ts'
import { Agent, agents } from './agent.ts'
import { builder } from './builder.ts'
import { connectionOf, pageArgs } from './connection.ts'
import { scopeOf } from './context.ts'
import { Conversation, conversations } from './conversation.ts'
import { decodeId } from './global-id.ts'
import { byId, existing, loader } from './loader.ts'
import { Message } from './message.ts'
import { Money } from './money.ts'
import { mutation } from './mutation.ts'
import { idField, Node, resolveNodesOf } from './node.ts'
import { TokenUsage } from './usage.ts'

/** Runs by id. */
export const runs = loader(async (context, ids) => byId(await runsByIds(scopeOf(context), ids)))

/** The messages of a run, by the run's id. */
const messages = loader((context, runIds) => messagesByRun(scopeOf(context), runIds))

const usages = loader((context, runIds) => usageByRun(scopeOf(context), runIds))

export const RunStatus = builder.enumType('RunStatus', {
  description: 'Where a run stands.',
  values: {
    QUEUED: { description: 'Waiting for a worker.' },
    RUNNING: { description: 'A worker is at it.' },
    WAITING_APPROVAL: { description: 'Waiting for a person to approve a tool call.' },
    PAUSED_BUDGET: { description: 'Waiting for budget, and for somebody to resume it.' },
    COMPLETED: { description: 'Ended with a reply.' },
    FAILED: { description: 'Ended without a reply; `failure` says why.' },
    CANCELLED: { description: 'Ended because somebody asked for it, or because whoever asked for the answer was shut out.' },
    INTERRUPTED: {
      description:
        'Ended half-way: another message took its place, or it could not be taken up again without doing something twice.',
    },
  } satisfies Record<Status, { description: string }>,
})

export const RunFailure = builder.objectRef<Failure>('RunFailure').implement({
  description: 'Why a run failed, or ended early without anybody asking for that.',
  authScopes: { endUser: true },
  fields: (t) => ({
    code: t.exposeString('code', { description: 'The kind of failure, for programs, as in MODEL_UNAVAILABLE.' }),
    message: t.exposeString('message', { description: 'The same for people.' }),
  }),
})

export const Run = builder.objectRef<RunRow>('Run')

Run.implement({
  description: 'One answer, from the message that asked for it to the reply. Goes on whether or not anybody listens.',
  interfaces: [Node],
  authScopes: { endUser: true },
  fields: (t) => ({
    id: t.id(idField('Run')),
    status: t.expose('status', { type: RunStatus, description: 'Where it stands.' }),
    conversation: t.field({
      type: Conversation,
      description: 'Where it belongs.',
      resolve: (run, _args, context) => existing('conversation', conversations(context).load(run.conversationId)),
    }),
    agent: t.field({
      type: Agent,
      nullable: true,
      description: 'Who answers: of a run that was handed over, who answered last. Null when that agent is gone.',
      resolve: (run, _args, context) => agents(context).load(run.agentId),
    }),
    userMessage: t.field({
      type: Message,
      description: 'The message it answers.',
      resolve: async (run, _args, context) => (await existing('run', messages(context).load(run.id))).userMessage,
    }),
    reply: t.field({
      type: Message,
      nullable: true,
      description: 'What the agent said. Null until it has, and when the run ended without a word.',
      resolve: async (run, _args, context) => (await messages(context).load(run.id))?.reply,
    }),
    usage: t.field({
      type: TokenUsage,
      description: 'Tokens of all its model calls so far, from the ledger.',
      resolve: (run, _args, context) => existing('run', usages(context).load(run.id)),
    }),
    cost: t.field({
      type: Money,
      description: 'Cost of all its model calls so far, from the ledger.',
      resolve: async (run, _args, context) => {
        const { costNanos, currency } = await existing('run', usages(context).load(run.id))
        return { nanos: costNanos, currency }
      },
    }),
    configVersion: t.exposeInt('configVersion', {
      description: "Version of the agent's configuration: pinned when a worker takes the run, until then the active one.",
    }),
    model: t.exposeString('model', {
      description:
        'The model that answers: of those of its agent the one that was called last, unless a cheaper one was put in their place.',
    }),
    downgradedFrom: t.exposeString('downgradedFrom', {
      nullable: true,
      description:
        "The agent's own model, when a cheaper one was put in its place since the month's tokens are nearly used up. Null when none was.",
    }),
    failure: t.field({
      type: RunFailure,
      nullable: true,
      description:
        'Why it failed, or ended early without anybody asking for that: API_KEY_REVOKED, TENANT_SUSPENDED, SUPERSEDED. Null for all others.',
      resolve: (run) =>
        run.failureCode === null || !isFinished(run) ? null : { code: run.failureCode, message: run.failureMessage ?? '' },
    }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was asked for.' }),
    startedAt: t.expose('startedAt', {
      type: 'DateTime',
      nullable: true,
      description: 'When a worker first took it. Null while it is queued.',
    }),
    finishedAt: t.expose('finishedAt', { type: 'DateTime', nullable: true, description: 'When it ended. Null until then.' }),
  }),
})

export const RunConnection = connectionOf(Run, 'runs')

resolveNodesOf('Run', { authScopes: { endUser: true }, load: (context, uuid) => runs(context).load(uuid) })

const RunFilter = builder.inputType('RunFilter', {
  description: 'Which runs. Everything that is named must hold.',
  fields: (t) => ({
    status: t.field({ type: RunStatus, description: 'Only those that stand here.' }),
    conversationId: t.id({ description: 'Only those of this conversation.' }),
  }),
})

builder.queryFields((t) => ({
  run: t.field({
    type: Run,
    nullable: true,
    description: 'One run. Null when there is no such run here. End users see their own.',
    authScopes: { endUser: true },
    args: { id: t.arg.id({ required: true, description: 'Its id.' }) },
    resolve: (_root, { id }, context) => findRun(scopeOf(context), decodeId('Run', id)),
  }),
  runs: t.field({
    type: RunConnection,
    description: 'Runs, newest first. End users see their own.',
    authScopes: { endUser: true },
    args: { ...pageArgs(t.arg), filter: t.arg({ type: RunFilter, description: 'Which ones. Default: all.' }) },
    resolve: (_root, { filter, ...page }, context) =>
      listRuns(scopeOf(context), page, {
        status: filter?.status,
        conversationId: filter?.conversationId == null ? undefined : decodeId('Conversation', filter.conversationId),
      }),
  }),
}))

mutation('cancelRun', {
  description:
    'Ends a run early. What was written so far is kept, and what was used is recorded. Cancelling a run that has ended changes nothing. End users cancel their own.',
  authScopes: { endUser: true },
  input: (t) => ({ runId: t.id({ required: true, description: 'Which run.' }) }),
  resolve: (scope, { runId }) => cancelRun(scope, { runId: decodeId('Run', runId) }),
  payload: (t) => ({
    run: t.expose('run', { type: Run, description: 'The run. A worker that is at it needs a moment to stop.' }),
  }),
})

mutation('resumeRun', {
  description:
    'Lets a run go on that waits for budget, from where it paused, once there is budget again. Resuming one that is under way changes nothing; one that has ended is a Conflict. Members and admins.',
  authScopes: { member: true },
  input: (t) => ({ runId: t.id({ required: true, description: 'Which run.' }) }),
  resolve: (scope, { runId }) => resumeRun(scope, { runId: decodeId('Run', runId) }),
  payload: (t) => ({
    run: t.expose('run', { type: Run, description: 'The run, queued again.' }),
  }),
})
