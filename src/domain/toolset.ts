import type { Tool as ToolRow } from '../data/generated/client.ts'
import type { TenantTransaction } from '../data/tenant-scope.ts'
import type { TenantId } from './ids.ts'
import type { Ports, RevealSecrets, Tool } from './ports.ts'
import { revealSecrets } from './secret.ts'
import type { HttpDefinition, McpDefinition } from './tool-definition.ts'

/** Every tool that the tenant could enable, loaded for whoever asks: nothing is shared between tenants. */
export async function availableTools(ports: Ports, db: TenantTransaction, tenantId: TenantId): Promise<readonly Tool[]> {
  const [builtin, rows] = await Promise.all([
    ports.tools.available(tenantId),
    db.tool.findMany({ orderBy: [{ createdAt: 'asc' }, { id: 'asc' }] }),
  ])
  const reveal = secretsOf(ports, db, tenantId)
  const own = rows.flatMap((row) => toolsOf(ports, row, reveal))
  // One that came with a later version of the platform takes no tenant's name away.
  return [...own, ...builtin.filter(({ name }) => !own.some((tool) => tool.name === name))]
}

/** What a tool of the tenant may send: looked up when it is called, and not before. */
export function secretsOf({ vault }: Ports, db: TenantTransaction, tenantId: TenantId): RevealSecrets {
  return (names) => revealSecrets({ tenantId, db, vault }, names)
}

/** What a row gives the model: one tool, or those of a server. */
export function toolsOf(
  { tools }: Ports,
  row: Pick<ToolRow, 'name' | 'description' | 'kind' | 'definition'>,
  reveal: RevealSecrets,
) {
  const { name, description, kind } = row
  // What is stored was checked when it was defined.
  const definition: unknown = row.definition
  switch (kind) {
    case 'HTTP':
      return tools.kinds.HTTP.open({ name, description, definition: definition as HttpDefinition }, reveal)
    case 'MCP':
      return tools.kinds.MCP.open({ name, description, definition: definition as McpDefinition }, reveal)
    default:
      return kind satisfies never
  }
}
