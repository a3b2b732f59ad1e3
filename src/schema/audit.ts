import type { AuditActorKind, AuditEvent as AuditEventRow } from '../data/generated/client.ts'
import { listAuditEvents } from '../domain/audit.ts'
import { builder } from './builder.ts'
import { connectionOf, pageArgs } from './connection.ts'
import { scopeOf } from './context.ts'
import { encodeId, isNodeType } from './global-id.ts'

const ActorKind = builder.enumType('AuditActorKind', {
  description: 'What kind of actor did something.',
  values: {
    API_KEY: { description: "A holder of one of the tenant's keys." },
    OPERATOR: { description: 'An operator of the platform.' },
    SYSTEM: { description: 'The platform by itself.' },
  } satisfies Record<AuditActorKind, { description: string }>,
})

const admin = { admin: true } as const

const AuditEvent = builder.objectRef<AuditEventRow>('AuditEvent').implement({
  description: "Something that was done to the tenant's configuration, credentials or standing. Never changed. For admins.",
  authScopes: admin,
  fields: (t) => ({
    action: t.exposeString('action', { description: 'What was done: the name of the mutation, as in revokeApiKey.' }),
    actorKind: t.expose('actorKind', { type: ActorKind, description: 'What kind of actor did it.' }),
    actorName: t.exposeString('actorName', { description: 'The name of the credential that was used, as it was then.' }),
    actorId: t.id({
      nullable: true,
      description: "The key that was used. Null when it was none of the tenant's.",
      resolve: ({ actorKind, actorId }) => (actorKind === 'API_KEY' && actorId !== null ? encodeId('ApiKey', actorId) : null),
    }),
    subject: t.exposeString('subject', { description: 'The type of what was changed, as in ApiKey.' }),
    subjectId: t.id({
      nullable: true,
      description: 'The global id of what was changed. Null when things of that type have none.',
      resolve: ({ subject, subjectId }) => (isNodeType(subject) && subjectId !== null ? encodeId(subject, subjectId) : null),
    }),
    details: t.field({
      type: 'JSONObject',
      description: 'What changed, for people to read. Holds no secrets, no prompts and nothing that users said.',
      resolve: ({ details }) => details as Record<string, unknown>,
    }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was done.' }),
  }),
})

const AuditEventConnection = connectionOf(AuditEvent, 'audit events')

const AuditFilter = builder.inputType('AuditFilter', {
  description: 'Which audit events. Everything that is named must hold.',
  fields: (t) => ({
    action: t.string({ description: 'Only what this mutation did, as in revokeApiKey.' }),
    since: t.field({ type: 'DateTime', description: 'Only what was done from this moment on.' }),
    until: t.field({ type: 'DateTime', description: 'Only what was done before this moment.' }),
  }),
})

builder.queryField('auditEvents', (t) =>
  t.field({
    type: AuditEventConnection,
    description: 'What was done to the tenant by its admins and by operators, newest first. For admins.',
    authScopes: admin,
    args: { ...pageArgs(t.arg), filter: t.arg({ type: AuditFilter, description: 'Which ones. Default: all.' }) },
    resolve: (_root, { filter, ...page }, context) => listAuditEvents(scopeOf(context), page, filter ?? {}),
  }),
)
