import type { TenantId } from '../domain/ids.ts'
import type { Plan, PrismaClient, QuotaLimit, Tenant } from './generated/client.ts'
import type { AuditEventCreateManyInput } from './generated/models.ts'
import type { Placements } from './placements.ts'
import { holdTenant, type TransactionClient } from './tenant-hold.ts'

/** A limit in the place of the plan's, until `expiresAt`, or for good when that is null. */
export type OverrideRow = { limit: QuotaLimit; max: bigint; reason: string; expiresAt: Date | null; createdAt: Date }

/**
 * What tenants may use, as operators decide it. Each change is in the tenant's audit log, by the same transaction, and outdates the
 * limits that counters hold.
 */
export class QuotaRegister {
  readonly #client: PrismaClient
  readonly #placements: Placements

  constructor(client: PrismaClient, placements: Placements) {
    this.#client = client
    this.#placements = placements
  }

  /** The tenant's row in the database that it is in, which has its settings; null when there is none. */
  async findResident(tenantId: TenantId): Promise<Tenant | null> {
    const { client } = await this.#placements.at(this.#placements.databaseOf(tenantId))
    return client.tenant.findFirst({ where: { id: tenantId } })
  }

  /** Gives the tenant another plan. Does nothing when it has it, or is erased. */
  async changePlan(tenantId: TenantId, plan: Plan, audit: AuditEventCreateManyInput): Promise<void> {
    await holdTenant(this.#client, this.#placements, tenantId, async (tx, atHome) => {
      const { count } = await tx.tenant.updateMany({
        where: { id: tenantId, plan: { not: plan } },
        data: { plan, limitsVersion: { increment: 1 } },
      })
      // Rather noted and not done than done and not noted.
      if (count === 1) await atHome((home) => home.auditEvent.createMany({ data: audit }))
    })
    await this.#placements.repeatStanding(tenantId)
  }

  /** Sets the limit. Does nothing when it is the same already, or the tenant is erased. */
  async setOverride(tenantId: TenantId, override: OverrideRow, audit: AuditEventCreateManyInput): Promise<void> {
    const { limit, max, reason, expiresAt, createdAt } = override
    await this.#change(tenantId, audit, async (home) => {
      const key = { tenantId, limit }
      const same = await home.quotaOverride.count({ where: { ...key, max, reason, expiresAt } })
      if (same === 1) return false
      const data = { max, reason, expiresAt, createdAt }
      await home.quotaOverride.upsert({ where: { tenantId_limit: key }, create: { ...key, ...data }, update: data })
      return true
    })
  }

  /** Lets the plan's limit hold again. Does nothing when it does, or the tenant is erased. */
  async clearOverride(tenantId: TenantId, limit: QuotaLimit, audit: AuditEventCreateManyInput): Promise<void> {
    await this.#change(tenantId, audit, async (home) => {
      const { count } = await home.quotaOverride.deleteMany({ where: { tenantId, limit } })
      return count === 1
    })
  }

  async #change(
    tenantId: TenantId,
    audit: AuditEventCreateManyInput,
    change: (home: TransactionClient) => Promise<boolean>,
  ): Promise<void> {
    await holdTenant(this.#client, this.#placements, tenantId, (_tx, atHome) =>
      atHome(async (home) => {
        if (!(await change(home))) return
        await home.tenant.updateMany({ where: { id: tenantId }, data: { limitsVersion: { increment: 1 } } })
        await home.auditEvent.createMany({ data: audit })
      }),
    )
  }
}
