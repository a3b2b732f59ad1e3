import {
  createWebhook,
  deleteWebhook,
  findWebhook,
  listWebhooks,
  type WebhookEntry,
  type webhookEvents,
} from '../domain/webhook.ts'
import { builder } from './builder.ts'
import { scopeOf } from './context.ts'
import { decodeId } from './global-id.ts'
import { mutation } from './mutation.ts'
import { idField, Node, resolveNodesOf } from './node.ts'

const admin = { admin: true } as const

const WebhookEvent = builder.enumType('WebhookEvent', {
  description: 'What a webhook is told of.',
  values: {
    NOTIFICATION: { description: 'What the admins are notified of.' },
    USAGE: { description: 'Each model call as it enters the ledger, and each correction, as a CloudEvents event.' },
  } satisfies Record<(typeof webhookEvents)[number], object>,
})

const Webhook = builder.objectRef<WebhookEntry>('Webhook').implement({
  description: 'A URL that is called, signed, with what the tenant wants to be told of. For admins.',
  interfaces: [Node],
  authScopes: admin,
  fields: (t) => ({
    id: t.id(idField('Webhook')),
    url: t.exposeString('url', { description: 'What is called.' }),
    description: t.exposeString('description', { nullable: true, description: 'What it is for. Null when nobody said.' }),
    events: t.expose('events', { type: [WebhookEvent], description: 'What it is told of, each once.' }),
    failingSince: t.expose('failingSince', {
      type: 'DateTime',
      nullable: true,
      description:
        'Since when nothing could be delivered to it. After ten minutes it is told of no further usage until it takes something. Null while it does.',
    }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was created.' }),
  }),
})

resolveNodesOf('Webhook', { authScopes: admin, load: (context, uuid) => findWebhook(scopeOf(context), uuid) })

builder.queryField('webhooks', (t) =>
  t.field({
    type: [Webhook],
    description: "The tenant's webhooks, the oldest first, without their secrets. For admins.",
    authScopes: admin,
    resolve: (_root, _args, context) => listWebhooks(scopeOf(context)),
  }),
)

mutation('createWebhook', {
  description:
    'Has a URL called with what the admins are notified of, or with usage, or both, signed by the scheme of Standard Webhooks. A tenant has at most 10. For admins.',
  authScopes: admin,
  input: (t) => ({
    url: t.string({
      required: true,
      description: 'What is called: https, in the public Internet, at port 443 or one above 1023. Redirects are not followed.',
    }),
    description: t.string({ description: 'What it is for. At most 200 bytes.' }),
    events: t.field({
      type: [WebhookEvent],
      required: true,
      defaultValue: ['NOTIFICATION'],
      description: 'What it is told of: at least one, each once.',
    }),
    idempotencyKey: t.string({
      description: 'Makes repeating the call safe for 24 hours: the same key with the same input makes one webhook.',
    }),
  }),
  resolve: (scope, input) => createWebhook(scope, input),
  payload: (t) => ({
    webhook: t.expose('webhook', { type: Webhook, description: 'The new webhook.' }),
    secret: t.exposeString('secret', {
      nullable: true,
      description:
        'What calls are signed with, shown this once. Null when an idempotency key repeats a call: delete the webhook and make another if it was lost.',
    }),
  }),
})

mutation('deleteWebhook', {
  description: 'Ends a webhook. What was not delivered to it yet never is. For admins.',
  authScopes: admin,
  input: (t) => ({ webhookId: t.id({ required: true, description: 'Which webhook.' }) }),
  resolve: (scope, { webhookId }) => deleteWebhook(scope, { webhookId: decodeId('Webhook', webhookId) }),
  payload: (t) => ({ webhook: t.expose('webhook', { type: Webhook, description: 'The webhook as it was.' }) }),
})
