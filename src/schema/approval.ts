import {
  type Approval as ApprovalRow,
  approvalStatus,
  approveToolCall,
  findApproval,
  listApprovals,
  rejectToolCall,
  type ApprovalStatus as Status,
} from '../domain/approval.ts'
import { builder } from './builder.ts'
import { connectionOf, pageArgs } from './connection.ts'
import { scopeOf } from './context.ts'
import { decodeId } from './global-id.ts'
import { existing } from './loader.ts'
import { mutation } from './mutation.ts'
import { idField, Node, resolveNodesOf } from './node.ts'
import { Run, runs } from './run.ts'
import { textBudget } from './text-budget.ts'

const member = { member: true } as const

const ApprovalStatus = builder.enumType('ApprovalStatus', {
  description: 'Where a request for approval stands.',
  values: {
    PENDING: { description: 'Somebody has to decide.' },
    APPROVED: { description: 'Somebody agreed to the call.' },
    REJECTED: { description: 'Somebody decided against it.' },
    EXPIRED: { description: 'Nobody decided in time, so it counts as rejected.' },
    CANCELLED: { description: 'The run ended before anybody decided.' },
  } satisfies Record<Status, { description: string }>,
})

const Approval = builder.objectRef<ApprovalRow>('Approval').implement({
  description: 'A tool call that a person has to agree to, or had to. For members and admins.',
  interfaces: [Node],
  authScopes: member,
  fields: (t) => ({
    id: t.id(idField('Approval')),
    status: t.field({ type: ApprovalStatus, description: 'Where it stands.', resolve: approvalStatus }),
    run: t.field({
      type: Run,
      description: 'The run that wants to call the tool.',
      resolve: ({ runId }, _args, context) => existing('run', runs(context).load(runId)),
    }),
    toolCallId: t.exposeString('callId', { description: 'The call, as in ToolCallStarted.' }),
    name: t.exposeString('name', { description: 'The tool.' }),
    arguments: t.string({
      description: 'What it is called with: JSON, as the model wrote it.',
      resolve: (approval, _args, context) => textBudget(context).spend(approval.arguments),
    }),
    argumentsHash: t.exposeString('argumentsHash', {
      description: 'SHA-256 of the arguments in hexadecimal. Whoever decides says it back.',
    }),
    mayHaveHappened: t.boolean({
      description:
        'Whether the call may have been made already: a worker died at it, or the tool did not answer. Approving it may then mean making it twice.',
      resolve: ({ startedAt }) => startedAt !== null,
    }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When the model asked for the call.' }),
    expiresAt: t.field({
      type: 'DateTime',
      description: 'Until when it can be decided. From then on it counts as rejected.',
      resolve: ({ expiresAt, createdAt }) => expiresAt ?? createdAt,
    }),
    decidedAt: t.expose('decidedAt', {
      type: 'DateTime',
      nullable: true,
      description: 'When it was decided, or expired. Null until then.',
    }),
    decidedBy: t.exposeString('decidedBy', {
      nullable: true,
      description: 'The name of the API key that decided. Null until then, and when nobody did.',
    }),
    reason: t.exposeString('reason', {
      nullable: true,
      description: 'Why, in the words of whoever decided. Null when they gave none.',
    }),
  }),
})

resolveNodesOf('Approval', { authScopes: member, load: (context, uuid) => findApproval(scopeOf(context), uuid) })

const ApprovalConnection = connectionOf(Approval, 'requests for approval')

builder.queryField('approvals', (t) =>
  t.field({
    type: ApprovalConnection,
    description: 'The tool calls that wait for somebody to decide, oldest first. For members and admins.',
    authScopes: member,
    args: pageArgs(t.arg),
    resolve: (_root, page, context) => listApprovals(scopeOf(context), page),
  }),
)

const which = {
  approvalId: 'What is decided, as in ApprovalRequested.',
  argumentsHash: 'Its `argumentsHash`: the arguments that you have seen. A Conflict when they are others.',
} as const

const decided = 'As it stands now. The run goes on once nothing of it waits for a decision.'

mutation('approveToolCall', {
  description:
    'Lets a tool call be made, with exactly these arguments. Repeating it changes nothing; when it was rejected, has expired or its run has ended, it is a Conflict. For members and admins.',
  authScopes: member,
  input: (t) => ({
    approvalId: t.id({ required: true, description: which.approvalId }),
    argumentsHash: t.string({ required: true, description: which.argumentsHash }),
    mayRepeat: t.boolean({
      required: true,
      defaultValue: false,
      description: 'Whether it may be made though it `mayHaveHappened` already. A Conflict for such a call when false.',
    }),
    reason: t.string({ description: 'Why, for the record. At most 1,000 bytes.' }),
  }),
  resolve: (scope, { approvalId, ...input }) =>
    approveToolCall(scope, { ...input, approvalId: decodeId('Approval', approvalId) }),
  payload: (t) => ({ approval: t.expose('approval', { type: Approval, description: decided }) }),
})

mutation('rejectToolCall', {
  description:
    'Keeps a tool call from being made: the agent is told, and goes on. Repeating it changes nothing; when it was approved, has expired or its run has ended, it is a Conflict. For members and admins.',
  authScopes: member,
  input: (t) => ({
    approvalId: t.id({ required: true, description: which.approvalId }),
    argumentsHash: t.string({ required: true, description: which.argumentsHash }),
    reason: t.string({ description: 'Why, for the agent and for the record. At most 1,000 bytes.' }),
  }),
  resolve: (scope, { approvalId, ...input }) => rejectToolCall(scope, { ...input, approvalId: decodeId('Approval', approvalId) }),
  payload: (t) => ({ approval: t.expose('approval', { type: Approval, description: decided }) }),
})
