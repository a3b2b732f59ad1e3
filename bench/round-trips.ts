import type { Bench } from './bench.ts'
import { forTenant, openPrisma, openScopes, transactionFor } from './support/clients.ts'
import { type Distance, startDistance } from './support/distance.ts'
import { keyedRead, newConversation, newTurn, pick, startTurn } from './support/workload.ts'

const operations = 100

/** How often each kind of operation waits for the database. */
export const roundTrips: Bench = {
  summary: 'network round trips of each kind of operation, counted on the wire',
  async run({ database, progress }) {
    progress('round-trips')
    const { adminUrl, appUrl, tenants, host, port } = await database()
    const wire = await startDistance({ host, port }, 0)
    const plain = openPrisma(wire.through(adminUrl), 1)
    const walled = openPrisma(wire.through(appUrl), 1)
    const exclusive = openScopes(wire.through(appUrl), 1, 0)
    const pipelined = openScopes(wire.through(appUrl), 1, 1)

    const statements = {
      'tenant-scoped read': keyedRead(tenants, exclusive.of),
      'tenant-scoped read, shared connections': keyedRead(tenants, pipelined.of),
      'tenant-scoped insert': async () => {
        const tenant = pick(tenants)
        await exclusive.of(tenant.tenantId).conversation.create({ data: newConversation(tenant) })
      },
    }
    const others = {
      'tenant-scoped transaction of two statements': () => {
        const rows = newTurn(pick(tenants))
        return exclusive.of(rows.run.tenantId).$transaction((tx) => startTurn(tx, rows))
      },
      'Prisma without a scope, a read': keyedRead(tenants, () => plain.client),
      "Prisma's documented extension, a read": keyedRead(tenants, (tenantId) => forTenant(walled.client, tenantId)),
      "Prisma's interactive transaction of two statements": () => {
        const rows = newTurn(pick(tenants))
        return transactionFor(walled.client, rows.run.tenantId, (tx) => startTurn(tx, rows))
      },
    }
    try {
      const counted = await countAll(wire, statements)
      return [
        {
          title: 'Round trips',
          setup: [
            `How often the client spoke after the server had, per operation; ${operations} operations of one caller on a warm connection.`,
            'The COMMIT of a transaction is a round trip of its own.',
          ],
          table: { columns: ['', 'round trips'], rows: [...counted, ...(await countAll(wire, others))] },
          verdicts: counted.map(([name, count]) => ({ row: 11, goal: `${name}: 1`, measured: count, met: Number(count) === 1 })),
        },
      ]
    } finally {
      await Promise.all([plain, walled, exclusive, pipelined].map((one) => one.close()))
      await wire.close()
    }
  },
}

async function countAll(wire: Distance, kinds: Record<string, () => Promise<void>>): Promise<[name: string, count: string][]> {
  const counts: [string, string][] = []
  for (const [name, operation] of Object.entries(kinds)) counts.push([name, (await count(wire, operation)).toFixed(2)])
  return counts
}

async function count(wire: Distance, operation: () => Promise<void>): Promise<number> {
  // Uncounted: connects and prepares the statements.
  for (let warmUp = 0; warmUp < 10; warmUp++) await operation()
  await wire.traffic()
  for (let done = 0; done < operations; done++) await operation()
  return (await wire.traffic()).roundTrips / operations
}
