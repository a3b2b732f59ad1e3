import type { NotificationKind, Notification as NotificationRow } from '../data/generated/client.ts'
import { findNotification, listNotifications } from '../domain/notification.ts'
import { followNotifications } from '../domain/notification-stream.ts'
import { builder } from './builder.ts'
import { connectionOf, pageArgs } from './connection.ts'
import { scopeOf } from './context.ts'
import { idField, Node, resolveNodesOf } from './node.ts'

const admin = { admin: true } as const

const Kind = builder.enumType('NotificationKind', {
  description: 'What a notification tells of.',
  values: {
    QUOTA_THRESHOLD_REACHED: {
      description:
        'A share of a limit is used. `details` has limit, threshold (in percent), used, max, period, periodStart and periodEnd.',
    },
    APPROVAL_REQUESTED: {
      description:
        'A tool call waits for somebody to decide: see `approvals`. `details` has tool, argumentsHash, mayHaveHappened and expiresAt.',
    },
  } satisfies Record<NotificationKind, { description: string }>,
})

const Notification = builder.objectRef<NotificationRow>('Notification').implement({
  description: "Something that the tenant's admins were told, here, by e-mail and by webhook. Never changed. For admins.",
  interfaces: [Node],
  authScopes: admin,
  fields: (t) => ({
    id: t.id(idField('Notification')),
    kind: t.expose('kind', { type: Kind, description: 'What it tells of.' }),
    title: t.exposeString('title', { description: 'What it says, in a line. The subject of the e-mail.' }),
    body: t.exposeString('body', { description: 'What it says, for people to read. The text of the e-mail.' }),
    details: t.field({
      type: 'JSONObject',
      description: 'The same for programs. Its fields depend on the kind.',
      resolve: ({ details }) => details as Record<string, unknown>,
    }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When they were told.' }),
  }),
})

resolveNodesOf('Notification', { authScopes: admin, load: (context, uuid) => findNotification(scopeOf(context), uuid) })

const NotificationConnection = connectionOf(Notification, 'notifications')

builder.queryField('notifications', (t) => {
  const { first, after } = pageArgs(t.arg)
  return t.field({
    type: NotificationConnection,
    description: "What the tenant's admins were told, newest first. For admins.",
    authScopes: admin,
    args: { first, after },
    resolve: (_root, page, context) => listNotifications(scopeOf(context), page),
  })
})

builder.subscriptionField('notificationReceived', (t) =>
  t.field({
    type: Notification,
    description:
      "What the tenant's admins are told from now on, each thing once. With `after`, first what they were told since then: whoever reconnects misses nothing. For admins.",
    authScopes: admin,
    args: {
      after: t.arg.string({ description: 'Cursor, in `notifications`, of the last one you have. Default: none before now.' }),
    },
    subscribe: (_root, { after }, context) => followNotifications(scopeOf(context), after ?? null, context.signal),
    resolve: (notification) => notification,
  }),
)
