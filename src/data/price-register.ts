import type { TenantId } from '../domain/ids.ts'
import type { Credit, Price, PrismaClient, TenantPrice } from './generated/client.ts'
import type { AuditEventCreateManyInput } from './generated/models.ts'
import type { Placements } from './placements.ts'
import { holdTenant } from './tenant-hold.ts'

/** Tells two versions of a price apart that were made at once: the second is not stored. */
export class PriceRace extends Error {}

/**
 * What models cost, and what was agreed with single tenants, as operators decide it. Rows are added and never changed. What is done
 * to a tenant is in its audit log, by the same transaction.
 */
export class PriceRegister {
  readonly #client: PrismaClient
  readonly #placements: Placements

  constructor(client: PrismaClient, placements: Placements) {
    this.#client = client
    this.#placements = placements
  }

  /** All versions of the model's price, or of all models', by model and version. */
  list(model?: string): Promise<Price[]> {
    return this.#client.price.findMany({ where: { model }, orderBy: [{ model: 'asc' }, { version: 'asc' }] })
  }

  /** The version of the model's price that began last, or will; null when it has none. */
  last(model: string): Promise<Price | null> {
    return this.#client.price.findFirst({ where: { model }, orderBy: { version: 'desc' } })
  }

  /** Adds a version to the catalogue. Throws PriceRace when there is one of this number. */
  async add(price: Price): Promise<void> {
    const { count } = await this.#client.price.createMany({ data: price, skipDuplicates: true })
    if (count === 0) throw new PriceRace()
  }

  /** Brings the price list to the databases that single tenants have to themselves. Throws when one does not take it. Safe to repeat. */
  async distribute(): Promise<void> {
    const prices = await this.list()
    await this.#placements.forEachElsewhere(async (client) => {
      await client.price.createMany({ data: prices, skipDuplicates: true })
    })
  }

  /** All that was agreed with the tenant, by model and version. */
  async agreedWith(tenantId: TenantId): Promise<TenantPrice[]> {
    const { client } = await this.#placements.at(this.#placements.databaseOf(tenantId))
    return client.tenantPrice.findMany({ where: { tenantId }, orderBy: [{ model: 'asc' }, { version: 'asc' }] })
  }

  /** Adds a version. Throws PriceRace when there is one of this number. Does nothing when the tenant is erased. */
  async agree(price: TenantPrice, audit: AuditEventCreateManyInput): Promise<void> {
    await holdTenant(this.#client, this.#placements, price.tenantId as TenantId, (_tx, atHome) =>
      atHome(async (home) => {
        const { count } = await home.tenantPrice.createMany({ data: price, skipDuplicates: true })
        if (count === 0) throw new PriceRace()
        await home.auditEvent.createMany({ data: audit })
      }),
    )
  }

  /** Gives the tenant a credit, unless there is one of this id. Answers the one that there is; null when the tenant is erased. */
  async grant(credit: Credit, audit: AuditEventCreateManyInput): Promise<Credit | null> {
    let stored: Credit | null = null
    await holdTenant(this.#client, this.#placements, credit.tenantId as TenantId, (_tx, atHome) =>
      atHome(async (home) => {
        const { count } = await home.credit.createMany({ data: credit, skipDuplicates: true })
        if (count === 1) await home.auditEvent.createMany({ data: audit })
        stored = await home.credit.findFirst({ where: { tenantId: credit.tenantId, id: credit.id } })
      }),
    )
    return stored
  }
}
