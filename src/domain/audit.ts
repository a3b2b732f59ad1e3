import type { AuditActorKind, AuditEvent } from '../data/generated/client.ts'
import type { TenantTransaction } from '../data/tenant-scope.ts'
import { newId } from './ids.ts'
import { type Page, type PageArgs, paginate } from './page.ts'
import { requireRole, type Scope } from './scope.ts'
import { cleanText, type JsonObject } from './text.ts'
import { checkTime } from './time.ts'

/** What was done, by an actor that the caller knows. */
export type AuditEntry = {
  /** The mutation or command, as in `revokeApiKey`. */
  action: string
  /** The type of what was changed, as the schema calls it. */
  subject:
    | 'Agent'
    | 'AgentConfig'
    | 'ApiKey'
    | 'Approval'
    | 'Credit'
    | 'Run'
    | 'Secret'
    | 'Tenant'
    | 'TenantExport'
    | 'TenantPrice'
    | 'Tool'
    | 'UsageRecord'
    | 'Webhook'
  subjectId: string
  /** What changed, for people to read. Never a secret, never a prompt, never what end users said. */
  details: JsonObject
}

/** Who acted. `id` is the credential's, and null for the platform itself. */
export type AuditActor = { kind: AuditActorKind; id: string | null; name: string }

/** The entry as a row of `tenantId`, done at `now` in milliseconds. */
export function auditRow(tenantId: string, actor: AuditActor, entry: AuditEntry, now: number) {
  return {
    ...entry,
    ...{ id: newId(), tenantId, createdAt: new Date(now) },
    ...{ actorKind: actor.kind, actorId: actor.id, actorName: actor.name },
  }
}

/**
 * Notes in the tenant's audit log what the scope's actor does. Call it in the transaction of the change itself, once for each
 * call of a mutation that changed something.
 */
export async function recordAudit(scope: Scope, tx: TenantTransaction, entry: AuditEntry): Promise<void> {
  const { id, name } = scope.actor
  // Not `create`, which would read back what nobody needs.
  await tx.auditEvent.createMany({ data: auditRow(scope.tenant.id, { kind: 'API_KEY', id, name }, entry, scope.ports.now()) })
}

export type AuditFilter = {
  action?: string | null
  /** From here on, this moment included. */
  since?: Date | null
  /** Up to here, this moment not included. */
  until?: Date | null
}

/** What was done in the tenant, newest first. Throws ValidationProblem as `paginate` does. For admins. */
export async function listAuditEvents(scope: Scope, page: PageArgs, filter: AuditFilter = {}): Promise<Page<AuditEvent>> {
  requireRole(scope, 'ADMIN')
  const action = filter.action == null ? undefined : cleanText('action', filter.action, { min: 0, max: 100 })
  const createdAt = { gte: checkTime('since', filter.since), lt: checkTime('until', filter.until) }
  return paginate(page, { direction: 'desc' }, (where, orderBy, take) =>
    scope.db.auditEvent.findMany({ where: { ...where, action, createdAt }, orderBy, take }),
  )
}
