import { deleteSecret, findSecret, listSecrets, type SecretEntry, setSecret } from '../domain/secret.ts'
import { builder } from './builder.ts'
import { scopeOf } from './context.ts'
import { decodeId } from './global-id.ts'
import { mutation } from './mutation.ts'
import { idField, Node, resolveNodesOf } from './node.ts'

const Secret = builder.objectRef<SecretEntry>('Secret').implement({
  description: 'A value that tools may use and nobody can read again, such as a key of another service. For admins.',
  interfaces: [Node],
  authScopes: { admin: true },
  fields: (t) => ({
    id: t.id(idField('Secret')),
    name: t.exposeString('name', { description: 'What tools call it by. Unique in the tenant.' }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was first set.' }),
    updatedAt: t.expose('updatedAt', { type: 'DateTime', description: 'When its value was last set.' }),
  }),
})

resolveNodesOf('Secret', { authScopes: { admin: true }, load: (context, uuid) => findSecret(scopeOf(context), uuid) })

builder.queryField('secrets', (t) =>
  t.field({
    type: [Secret],
    description: "The tenant's secrets by name, without their values. For admins.",
    authScopes: { admin: true },
    resolve: (_root, _args, context) => listSecrets(scopeOf(context)),
  }),
)

mutation('setSecret', {
  description: 'Keeps a value, encrypted, under a name; in the place of the one that has the name. For admins.',
  authScopes: { admin: true },
  input: (t) => ({
    name: t.string({
      required: true,
      description: 'What tools call it by: a letter, then up to 99 letters, digits, dots, hyphens and underscores.',
    }),
    value: t.string({ required: true, description: 'The value, at most 64 KiB in UTF-8. It is never shown again.' }),
    idempotencyKey: t.string({
      description: 'Makes repeating the call safe for 24 hours: the same key with the same input sets it once.',
    }),
  }),
  resolve: (scope, input) => setSecret(scope, input),
  payload: (t) => ({ secret: t.expose('secret', { type: Secret, description: 'The secret, without its value.' }) }),
})

mutation('deleteSecret', {
  description: 'Erases a secret. What uses it fails from then on. For admins.',
  authScopes: { admin: true },
  input: (t) => ({ secretId: t.id({ required: true, description: 'Which secret.' }) }),
  resolve: (scope, { secretId }) => deleteSecret(scope, { secretId: decodeId('Secret', secretId) }),
  payload: (t) => ({ secret: t.expose('secret', { type: Secret, description: 'The secret as it was, without its value.' }) }),
})
