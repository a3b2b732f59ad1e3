import { resumeTenant, suspendTenant } from '../domain/tenant-standing.ts'
import { decodeId } from './global-id.ts'
import { operatorMutation } from './mutation.ts'
import { Tenant } from './tenant.ts'

operatorMutation('suspendTenant', {
  description:
    'Shuts a tenant out: its keys are refused, and every socket, stream and run of it ends within a second. Its data stays. Suspending it again changes nothing. For operators.',
  input: (t) => ({
    tenantId: t.id({ required: true, description: 'Which tenant.' }),
    reason: t.string({ required: true, description: "Why. It is in the tenant's audit log, for its admins to read." }),
  }),
  resolve: (operator, { tenantId, reason }) => suspendTenant(operator, { tenantId: decodeId('Tenant', tenantId), reason }),
  payload: (t) => ({ tenant: t.expose('tenant', { type: Tenant, description: 'The suspended tenant.' }) }),
})

operatorMutation('resumeTenant', {
  description:
    'Lets a suspended tenant in again, with the keys it had. Resuming one that is active changes nothing. For operators.',
  input: (t) => ({ tenantId: t.id({ required: true, description: 'Which tenant.' }) }),
  resolve: (operator, { tenantId }) => resumeTenant(operator, { tenantId: decodeId('Tenant', tenantId) }),
  payload: (t) => ({ tenant: t.expose('tenant', { type: Tenant, description: 'The tenant, active again.' }) }),
})
