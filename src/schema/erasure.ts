import { type ErasureRecord, eraseTenant } from '../domain/erasure.ts'
import { builder } from './builder.ts'
import { decodeId, encodeId } from './global-id.ts'
import { operatorMutation } from './mutation.ts'

type Counted = { kind: string; count: number }

const ErasureCount = builder.objectRef<Counted>('ErasureCount').implement({
  description: 'How many there were of one kind. For operators.',
  authScopes: { operator: true },
  fields: (t) => ({
    kind: t.exposeString('kind', {
      description:
        'A table of the database; or, kept in Redis, `event_streams`: live events, or `quota_counters`: use of the limits.',
    }),
    count: t.field({ type: 'BigInt', description: 'Rows of the table, or streams.', resolve: ({ count }) => BigInt(count) }),
  }),
})

export const ErasureCertificate = builder.objectRef<ErasureRecord>('ErasureCertificate').implement({
  description: 'What was found of a tenant and what became of it. It does not tell who the tenant was. For operators.',
  authScopes: { operator: true },
  fields: (t) => ({
    tenantId: t.id({ description: 'Whose data it was.', resolve: ({ tenantId }) => encodeId('Tenant', tenantId) }),
    requestedBy: t.exposeString('operatorName', { description: 'The operator who first asked for it.' }),
    requestedAt: t.expose('requestedAt', { type: 'DateTime', description: 'When that was.' }),
    finishedAt: t.expose('finishedAt', {
      type: 'DateTime',
      nullable: true,
      description: 'When nothing was left: everything was counted again then. Null while the erasure is under way.',
    }),
    found: countsField(t, 'found', 'What there was when the tenant was shut. Empty until that was counted.'),
    erased: countsField(t, 'erased', 'What was erased of it. Empty while the erasure is under way.'),
    retained: countsField(
      t,
      'retained',
      'What the law keeps: the ledger, in which end users are pseudonyms whose meaning was erased. Empty while the erasure is under way.',
    ),
    backupsExpireAt: t.expose('backupsExpireAt', {
      type: 'DateTime',
      nullable: true,
      description: 'When the last backup that holds the data expires. Null while the erasure is under way.',
    }),
  }),
})

type Fields = PothosSchemaTypes.ObjectFieldBuilder<(typeof builder)['$inferSchemaTypes'], ErasureRecord>

function countsField(t: Fields, name: 'found' | 'erased' | 'retained', description: string) {
  const inOrder = (erasure: ErasureRecord) => Object.entries(erasure[name]).toSorted(([a], [b]) => (a < b ? -1 : 1))
  return t.field({
    type: [ErasureCount],
    description,
    resolve: (erasure) => inOrder(erasure).map(([kind, count]) => ({ kind, count })),
  })
}

operatorMutation('eraseTenant', {
  description:
    "Erases a tenant's data for good: its keys, secrets, rows and live events. Sockets and runs end at once. What is left is the certificate. Repeating the call answers it again, or how far the erasure is. For operators.",
  input: (t) => ({
    tenantId: t.id({ required: true, description: 'Which tenant.' }),
    confirmName: t.string({
      required: true,
      description: "The tenant's name, to be sure. Not asked again once the erasure has begun.",
    }),
  }),
  resolve: (operator, { tenantId, confirmName }) =>
    eraseTenant(operator, { tenantId: decodeId('Tenant', tenantId), confirmName }),
  payload: (t) => ({
    certificate: t.expose('certificate', { type: ErasureCertificate, description: 'What was found, erased and kept.' }),
  }),
})
