import { setTimeout as delay } from 'node:timers/promises'
import type pg from 'pg'
import { type TenantId, tenantIdOf } from '../domain/ids.ts'
import type { OperatorIdempotencyKey, Plan, PrismaClient, Tenant, TenantStatus } from './generated/client.ts'
import type { AuditEventCreateManyInput, TenantOrderByWithRelationInput, TenantWhereInput } from './generated/models.ts'
import type { Placements } from './placements.ts'

/** Names an operator's call of a mutation under a key of the operator's choice. */
export type CallSlot = Pick<OperatorIdempotencyKey, 'operatorId' | 'mutation' | 'key'>

/** That call, with the hash of its input. Those made until `forgottenBefore` are forgotten. */
export type OperatorCall = { slot: CallSlot; inputHash: Uint8Array<ArrayBuffer>; createdAt: Date; forgottenBefore: Date }

/** How long a database that single tenants have to themselves is waited for, in milliseconds, when others wait meanwhile. */
const patience = 300

/**
 * The tenants' rows, as the platform keeps them. What it changes is in the tenant's audit log, by the same transaction where that
 * is in the same database; the platform adds to that log and cannot read it.
 */
export class TenantRegister {
  readonly #client: PrismaClient
  /** For what must not wait behind others. */
  readonly #express: pg.Pool
  readonly #placements: Placements
  /** As they were last read, of tenants that are elsewhere. */
  readonly #lastVersions = new Map<TenantId, number>()

  constructor(client: PrismaClient, express: pg.Pool, placements: Placements) {
    this.#client = client
    this.#express = express
    this.#placements = placements
  }

  list(where: TenantWhereInput, orderBy: TenantOrderByWithRelationInput[], take: number): Promise<Tenant[]> {
    return this.#client.tenant.findMany({ where, orderBy, take })
  }

  /**
   * Adds the tenant. When there is one of this name that has no agent yet, since its registration was cut off, answers that one.
   * Null, and nothing is changed, when the name is taken, or `call` was made before.
   */
  async reserve(
    tenant: { id: string; name: string; plan: Plan },
    audit: AuditEventCreateManyInput,
    call: OperatorCall | null,
  ): Promise<Tenant | null> {
    try {
      return await this.#client.$transaction(async (tx) => {
        // Waits for a registration of the same name that has not been committed yet.
        const { count } = await tx.tenant.createMany({ data: tenant, skipDuplicates: true })
        if (count === 1) await tx.auditEvent.createMany({ data: audit })
        const row = await tx.tenant.findFirst({
          where: { name: tenant.name, status: 'ACTIVE', defaultAgentId: null, databaseId: null },
        })
        if (!row) return null
        if (call) {
          const { slot, inputHash, createdAt, forgottenBefore } = call
          await tx.operatorIdempotencyKey.deleteMany({ where: { ...slot, createdAt: { lte: forgottenBefore } } })
          const entry = { ...slot, inputHash, createdAt, resultId: row.id }
          const noted = await tx.operatorIdempotencyKey.createMany({ data: entry, skipDuplicates: true })
          if (noted.count === 0) throw new CalledBefore()
        }
        return row
      })
    } catch (error) {
      if (error instanceof CalledBefore) return null
      throw error
    }
  }

  /** The call that the operator made under this key; null when there was none. */
  findCall(slot: CallSlot): Promise<OperatorIdempotencyKey | null> {
    return this.#client.operatorIdempotencyKey.findFirst({ where: slot })
  }

  /** Takes the tenant from one status to another, and what its credentials are worth with it. Does nothing when it is not in `from`. */
  async changeStatus(tenantId: TenantId, from: TenantStatus, to: TenantStatus, audit: AuditEventCreateManyInput): Promise<void> {
    await this.#client.$transaction(async (tx) => {
      const { count } = await tx.tenant.updateMany({
        where: { id: tenantId, status: from },
        data: { status: to, accessVersion: { increment: 1 } },
      })
      if (count === 0) return
      const { databaseId } = await tx.tenant.findFirstOrThrow({ where: { id: tenantId }, select: { databaseId: true } })
      // Rather noted and not done than done and not noted.
      const { client } = databaseId === null ? { client: tx } : await this.#placements.at(databaseId)
      await client.auditEvent.createMany({ data: audit })
    })
    await this.#placements.repeatStanding(tenantId)
  }

  /**
   * How often who may do what has changed in each of these tenants; one that does not exist is left out. Of a tenant whose own
   * database does not answer at once, what is known: nobody else waits for it.
   */
  async accessVersions(tenantIds: TenantId[]): Promise<Map<TenantId, number>> {
    const byDatabase = Map.groupBy(tenantIds, (tenantId) => this.#placements.databaseOf(tenantId))
    const answers = await Promise.all(
      Array.from(byDatabase, ([databaseId, ids]) =>
        databaseId === null ? readVersions(this.#express, ids) : this.#versionsElsewhere(databaseId, ids),
      ),
    )
    return new Map(answers.flat())
  }

  async #versionsElsewhere(databaseId: string, tenantIds: TenantId[]): Promise<[TenantId, number][]> {
    const read = this.#placements.at(databaseId).then(({ pool }) => readVersions(pool, tenantIds))
    read.then(
      (versions) => {
        for (const [tenantId, version] of versions) this.#lastVersions.set(tenantId, version)
      },
      () => undefined,
    )
    const known = () =>
      tenantIds.flatMap((tenantId): [TenantId, number][] => {
        const version = this.#lastVersions.get(tenantId)
        return version === undefined ? [] : [[tenantId, version]]
      })
    return Promise.race([read.catch(known), delay(patience, undefined, { ref: false }).then(known)])
  }
}

async function readVersions(pool: pg.Pool, tenantIds: TenantId[]): Promise<[TenantId, number][]> {
  const { rows } = await pool.query<{ id: string; version: number }>(
    'select id, access_version as version from tenants where id = any($1::uuid[])',
    [tenantIds],
  )
  return rows.map(({ id, version }) => [tenantIdOf(id), version])
}

/** Rolls the transaction back. Never leaves this file. */
class CalledBefore extends Error {}
