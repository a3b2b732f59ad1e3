import { PrismaPg } from '@prisma/adapter-pg'
import pg from 'pg'
import { Prisma, PrismaClient } from '../../src/data/generated/client.ts'
import { statementNames } from '../../src/data/statement-names.ts'
import { TenantPool } from '../../src/data/tenant-pool.ts'
import { TenantData, type TenantDb } from '../../src/data/tenant-scope.ts'

/**
 * The clients that are compared. All keep their statements prepared by name, so that what differs is how the tenant
 * reaches the database.
 */

type OpenPrisma = { client: PrismaClient; close(): Promise<void> }

/** Prisma alone, on a pool as pg makes it. */
export function openPrisma(connectionString: string, connections: number): OpenPrisma {
  const pool = new pg.Pool({ connectionString, max: connections })
  // Closed connections may still hear the database go. One that breaks earlier fails the operation on it.
  pool.on('error', () => undefined)
  const client = new PrismaClient({ adapter: new PrismaPg(pool, { statementNameGenerator: statementNames() }) })
  return {
    client,
    async close() {
      await client.$disconnect()
      await pool.end()
    },
  }
}

type OpenScopes = { of(tenantId: string): TenantDb; close(): Promise<void> }

/**
 * This platform's client, for a tenant's staff. `shared` connections carry the short reads of all tenants; with none,
 * each statement has a connection to itself.
 */
export function openScopes(connectionString: string, connections: number, shared: number): OpenScopes {
  const data = new TenantData(new TenantPool({ connectionString, max: connections, shared }))
  return { of: (tenantId) => data.of({ tenantId, userId: null }), close: () => data.close() }
}

/**
 * Prisma's documented extension for row-level security, to the letter but for the setting's name
 * (github.com/prisma/prisma-client-extensions, row-level-security/script.ts).
 */
export function forTenant(prisma: PrismaClient, tenantId: string) {
  return prisma.$extends(
    Prisma.defineExtension((base) =>
      base.$extends({
        query: {
          $allModels: {
            async $allOperations({ args, query }) {
              const [, result] = await base.$transaction([
                base.$executeRaw`SELECT set_config('app.current_tenant', ${tenantId}, TRUE)`,
                query(args),
              ])
              return result
            },
          },
        },
      }),
    ),
  )
}

/** An interactive transaction as people write it when the tenant has to be set: it goes first, and is awaited. */
export function transactionFor<T>(
  prisma: PrismaClient,
  tenantId: string,
  work: (tx: Prisma.TransactionClient) => Promise<T>,
): Promise<T> {
  return prisma.$transaction(async (tx) => {
    await tx.$executeRaw`SELECT set_config('app.current_tenant', ${tenantId}, TRUE)`
    return work(tx)
  })
}
