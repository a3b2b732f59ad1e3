import { type TenantId, tenantIdOf } from '../domain/ids.ts'
import { countStaleDatabases, resealDatabases, type UrlCipher } from './database-address.ts'
import type { PrismaClient } from './generated/client.ts'
import type { Placements } from './placements.ts'
import type { PlatformDatabase } from './platform-database.ts'

/** A tenant with data keys that another key wraps than the current one, and how many. */
export type StaleKeys = { tenantId: TenantId; keys: number }

/** What is encrypted under which key of the platform, in all databases. It is found here, and never read. */
export class KeyRegister {
  readonly #catalogue: PlatformDatabase
  readonly #placements: Placements
  readonly #cipher: UrlCipher | null

  constructor(catalogue: PlatformDatabase, placements: Placements, cipher: UrlCipher | null) {
    this.#catalogue = catalogue
    this.#placements = placements
    this.#cipher = cipher
  }

  /**
   * Whose data keys another key wraps than this one, in any database, also where a tenant is just being moved from or to. Throws when a
   * database does not answer: what is not seen there must not be taken for gone.
   */
  async staleKeys(wrappingKeyId: string): Promise<StaleKeys[]> {
    const found: StaleKeys[] = []
    const look = async (client: PrismaClient) => {
      const rows = await client.$queryRaw<{ tenant_id: string; keys: number }[]>`
        select tenant_id, count(*)::int as keys from data_keys where wrapping_key_id <> ${wrappingKeyId} group by tenant_id`
      found.push(...rows.map(({ tenant_id, keys }) => ({ tenantId: tenantIdOf(tenant_id), keys })))
    }
    await look(this.#catalogue.client)
    await this.#placements.forEachElsewhere(look)
    return found
  }

  /** How many databases have URLs that another key than the cipher's seals. */
  async staleDatabases(): Promise<number> {
    return this.#cipher ? countStaleDatabases(this.#catalogue.pool, this.#cipher) : 0
  }

  /** Seals the URLs of those databases anew, one after the other. Answers how many. */
  async resealDatabases(): Promise<number> {
    return this.#cipher ? resealDatabases(this.#catalogue.pool, this.#cipher) : 0
  }
}
