import type { ApiKey as ApiKeyRow } from '../data/generated/client.ts'
import { createApiKey, listApiKeys, revokeApiKey } from '../domain/api-key.ts'
import { builder } from './builder.ts'
import { scopeOf } from './context.ts'
import { decodeId, encodeId } from './global-id.ts'
import { mutation } from './mutation.ts'
import { Role, tenantRole } from './role.ts'

const ApiKey = builder.objectRef<ApiKeyRow>('ApiKey').implement({
  description: "One of the tenant's credentials. The key itself was shown once, when it was made. For admins.",
  authScopes: { admin: true },
  fields: (t) => ({
    id: t.id({
      description: 'The id of this key, to revoke it by. Not the key itself.',
      resolve: (key) => encodeId('ApiKey', key.id),
    }),
    name: t.exposeString('name', { description: 'What it is for.' }),
    role: t.expose('role', { type: Role, description: 'What its holder may do.' }),
    userId: t.exposeString('userId', {
      nullable: true,
      description: 'The end user it stands for. Null unless its role is END_USER.',
    }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was made.' }),
    expiresAt: t.expose('expiresAt', {
      type: 'DateTime',
      nullable: true,
      description: 'When it stops working. Null when it never expires.',
    }),
    revokedAt: t.expose('revokedAt', {
      type: 'DateTime',
      nullable: true,
      description: 'When it was revoked. Null while it was not.',
    }),
  }),
})

builder.queryField('apiKeys', (t) =>
  t.field({
    type: [ApiKey],
    description: "The tenant's keys, revoked and expired ones included. For admins.",
    authScopes: { admin: true },
    resolve: (_root, _args, context) => listApiKeys(scopeOf(context)),
  }),
)

mutation('createApiKey', {
  description: 'Makes a key. Its secret is in the answer and nowhere else: keep it. For admins.',
  authScopes: { admin: true },
  input: (t) => ({
    name: t.string({ required: true, description: 'What it is for.' }),
    role: t.field({ type: Role, required: true, description: 'What its holder may do: ADMIN, MEMBER or END_USER.' }),
    userId: t.string({
      description: 'The end user it stands for, in your own words. Required for END_USER, refused for others.',
    }),
    expiresAt: t.field({ type: 'DateTime', description: 'When it stops working. Default: never.' }),
    idempotencyKey: t.string({
      description: 'Makes repeating the call safe for 24 hours: the same key with the same input makes no second one.',
    }),
  }),
  resolve: (scope, { role, ...input }) => createApiKey(scope, { ...input, role: tenantRole(role) }),
  payload: (t) => ({
    apiKey: t.expose('apiKey', { type: ApiKey, description: 'The new key, without its secret.' }),
    secret: t.exposeString('secret', {
      nullable: true,
      description: 'What to send as Bearer. Null when an idempotency key repeats an earlier call: it is shown once.',
    }),
  }),
})

mutation('revokeApiKey', {
  description: 'Ends a key for good, and every connection that uses it. Revoking it again changes nothing. For admins.',
  authScopes: { admin: true },
  input: (t) => ({ apiKeyId: t.id({ required: true, description: 'Which key.' }) }),
  resolve: (scope, { apiKeyId }) => revokeApiKey(scope, { apiKeyId: decodeId('ApiKey', apiKeyId) }),
  payload: (t) => ({ apiKey: t.expose('apiKey', { type: ApiKey, description: 'The revoked key.' }) }),
})
