import type { Bench } from './bench.ts'
import { forTenant, openPrisma, openScopes } from './support/clients.ts'
import { atLeast, measurementTable } from './support/report.ts'
import { measure } from './support/rounds.ts'
import { keyedRead, perTenant } from './support/workload.ts'

const callers = 16
const connections = 10
const shared = 2

/** What a tenant's wall costs a read: one row by its key, beside Prisma without a wall and with the documented one. */
export const reads: Bench = {
  summary: 'a tenant-scoped read beside Prisma without a scope and beside its documented extension',
  async run({ database, progress, seconds, rounds }) {
    const { appUrl, adminUrl, tenants } = await database()
    const plain = openPrisma(adminUrl, connections)
    const documented = openPrisma(appUrl, connections)
    const exclusive = openScopes(appUrl, connections, 0)
    const pipelined = openScopes(appUrl, connections, shared)
    try {
      const measured = await measure(
        [
          { name: 'Prisma without a scope', operation: keyedRead(tenants, () => plain.client) },
          { name: 'tenant-scoped', operation: keyedRead(tenants, perTenant(tenants, exclusive.of)) },
          { name: 'tenant-scoped, shared connections', operation: keyedRead(tenants, perTenant(tenants, pipelined.of)) },
          {
            name: "Prisma's documented extension",
            operation: keyedRead(
              tenants,
              perTenant(tenants, (tenantId) => forTenant(documented.client, tenantId)),
            ),
          },
          { name: 'tenant-scoped, a new scope each', operation: keyedRead(tenants, exclusive.of) },
        ],
        { callers, seconds, rounds, onRound: (round) => progress(`reads: round ${round} of ${rounds}`) },
      )
      const [unscoped, scoped, overShared, extension] = measured
      return [
        {
          title: 'Reads',
          setup: [
            `One conversation by its key, of a random tenant; ${callers} callers, ${connections} connections; shared: ${shared}, pipelined.`,
            'Prisma without a scope connects as a superuser, whom row-level security does not bind.',
          ],
          table: measurementTable(measured),
          verdicts: [atLeast(1, 0.95, scoped, unscoped), atLeast(1, 1.3, overShared, unscoped), atLeast(2, 4, scoped, extension)],
        },
      ]
    } finally {
      await Promise.all([plain, documented, exclusive, pipelined].map((one) => one.close()))
    }
  },
}
