import type { TenantTransaction } from '../data/tenant-scope.ts'
import type { TenantId } from './ids.ts'
import type { Ports, Tool } from './ports.ts'

/** Every tool that the tenant could enable, loaded for whoever asks: nothing is shared between tenants. */
export async function availableTools(ports: Ports, _db: TenantTransaction, tenantId: TenantId): Promise<readonly Tool[]> {
  return ports.tools.available(tenantId)
}
