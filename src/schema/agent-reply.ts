import { followRun } from '../domain/agent-reply.ts'
import { builder } from './builder.ts'
import { scopeOf } from './context.ts'
import { decodeId } from './global-id.ts'
import { RunEvent } from './run-event.ts'

builder.subscriptionField('agentReply', (t) =>
  t.field({
    type: RunEvent,
    description:
      'The answer of a run, as it is written: everything so far (or after `after`), then what comes, until the run ends. Any number may listen, early, late or again; the run does not notice. NOT_FOUND when there is no such run here. End users follow their own runs.',
    authScopes: { endUser: true },
    args: {
      runId: t.arg.id({ required: true, description: 'Which run.' }),
      after: t.arg.string({ description: 'Cursor of the last event you have. Default: from the start.' }),
    },
    subscribe: (_root, { runId, after }, context) =>
      followRun(scopeOf(context), decodeId('Run', runId), context.lastEventId ?? after ?? null, context.signal),
    resolve: (event) => event,
  }),
)
