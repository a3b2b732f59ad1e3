import type { ExportStatus } from '../data/generated/enums.ts'
import { exportTenant, findTenantExport, progressOf, type TenantExport as TenantExportRow } from '../domain/tenant-export.ts'
import { builder } from './builder.ts'
import { scopeOf } from './context.ts'
import { encodeId } from './global-id.ts'
import { mutation } from './mutation.ts'
import { idField, Node, resolveNodesOf } from './node.ts'

const Status = builder.enumType('TenantExportStatus', {
  description: 'How far an export is, or was when it was last fetched.',
  values: {
    READY: { description: 'It can be fetched and was not yet.' },
    STREAMING: { description: 'It is being fetched.' },
    COMPLETED: { description: 'It was fetched to its end. It can be fetched again.' },
    FAILED: { description: 'Fetching it was cut off. It can be fetched again, from the beginning.' },
  } satisfies Record<ExportStatus, { description: string }>,
})

const TenantExport = builder.objectRef<TenantExportRow>('TenantExport')

TenantExport.implement({
  description: "An archive of all the tenant's data, made when it is fetched. For admins.",
  interfaces: [Node],
  authScopes: { admin: true },
  fields: (t) => ({
    id: t.id(idField('TenantExport')),
    status: t.expose('status', { type: Status, description: 'How far it is.' }),
    progress: t.float({ description: 'How much of it went out the last time it was fetched: from 0 to 1.', resolve: progressOf }),
    downloadPath: t.string({
      description:
        'Where to GET it, with the same credentials: NDJSON, compressed with gzip. docs/export.md tells what is in it.',
      resolve: ({ id }) => `/exports/${encodeId('TenantExport', id)}`,
    }),
    createdAt: t.expose('createdAt', { type: 'DateTime', description: 'When it was asked for.' }),
    expiresAt: t.expose('expiresAt', { type: 'DateTime', description: 'Until when it can be fetched.' }),
  }),
})

resolveNodesOf('TenantExport', {
  authScopes: { admin: true },
  load: (context, id) => findTenantExport(scopeOf(context), id),
})

mutation('exportTenant', {
  description:
    "Lets an archive of all your tenant's data be fetched for 24 hours, as often as you need. It holds what there is when it is fetched. For admins.",
  authScopes: { admin: true },
  input: (t) => ({
    idempotencyKey: t.string({
      description: 'Makes repeating the call safe for 24 hours: the same key with the same input makes no second one.',
    }),
  }),
  resolve: (scope, input) => exportTenant(scope, input),
  payload: (t) => ({
    tenantExport: t.expose('tenantExport', { type: TenantExport, description: 'Where to fetch it, and how far it is.' }),
  }),
})
