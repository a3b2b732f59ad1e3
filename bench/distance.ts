import type { Bench, BenchContext } from './bench.ts'
import { forTenant, openPrisma, openScopes } from './support/clients.ts'
import { type Distance, startDistance } from './support/distance.ts'
import { atLeast, measurementTable, type Report } from './support/report.ts'
import { type Contender, measure } from './support/rounds.ts'
import { keyedRead, perTenant } from './support/workload.ts'

/** Milliseconds each way: 2 ms there and back. */
const delay = 1

/** What round trips cost when there is a network: the same reads, with the database 2 ms away. */
export const distance: Bench = {
  summary: 'the same reads with 2 ms to the database, also by 128 callers on four connections',
  async run(context) {
    const away = await startDistance(await context.database(), delay)
    try {
      return [await fewCallers(context, away), await manyCallers(context, away)]
    } finally {
      await away.close()
    }
  },
}

async function fewCallers(context: BenchContext, away: Distance): Promise<Report> {
  const { appUrl, adminUrl, tenants } = await context.database()
  const callers = 16
  const connections = 10
  const plain = openPrisma(away.through(adminUrl), connections)
  const documented = openPrisma(away.through(appUrl), connections)
  const exclusive = openScopes(away.through(appUrl), connections, 0)
  try {
    const { measured, observed } = await measureAway(context, away, callers, [
      { name: 'Prisma without a scope', operation: keyedRead(tenants, () => plain.client) },
      { name: 'tenant-scoped, 2 ms away', operation: keyedRead(tenants, perTenant(tenants, exclusive.of)) },
      {
        name: "Prisma's documented extension",
        operation: keyedRead(
          tenants,
          perTenant(tenants, (tenantId) => forTenant(documented.client, tenantId)),
        ),
      },
    ])
    const [, scoped, extension] = measured
    return {
      title: 'Reads, 2 ms away',
      setup: [`One conversation by its key, of a random tenant; ${callers} callers, ${connections} connections.`, observed],
      table: measurementTable(measured),
      verdicts: [atLeast(2, 3.8, scoped, extension)],
    }
  } finally {
    await Promise.all([plain, documented, exclusive].map((one) => one.close()))
  }
}

async function manyCallers(context: BenchContext, away: Distance): Promise<Report> {
  const { appUrl, tenants } = await context.database()
  const callers = 128
  const [few, many] = [4, 10]
  const onFew = openPrisma(away.through(appUrl), few)
  const onMany = openPrisma(away.through(appUrl), many)
  const pipelined = openScopes(away.through(appUrl), 1, few)
  const extensionOf = (client: typeof onFew.client) => perTenant(tenants, (tenantId) => forTenant(client, tenantId))
  try {
    const { measured, observed } = await measureAway(context, away, callers, [
      {
        name: `Prisma's documented extension on ${many} connections`,
        operation: keyedRead(tenants, extensionOf(onMany.client)),
      },
      { name: `Prisma's documented extension on ${few}`, operation: keyedRead(tenants, extensionOf(onFew.client)) },
      { name: `tenant-scoped on ${few} shared connections`, operation: keyedRead(tenants, perTenant(tenants, pipelined.of)) },
    ])
    const [extension, , overShared] = measured
    return {
      title: 'Reads, 2 ms away, many callers',
      setup: [`One conversation by its key, of a random tenant; ${callers} callers.`, observed],
      table: measurementTable(measured),
      verdicts: [atLeast(3, 8, overShared, extension)],
    }
  } finally {
    await Promise.all([onFew, onMany, pipelined].map((one) => one.close()))
  }
}

async function measureAway<const Contenders extends readonly Contender[]>(
  { progress, seconds, rounds }: BenchContext,
  away: Distance,
  callers: number,
  contenders: Contenders,
) {
  await away.traffic()
  const onRound = (round: number) => progress(`distance, ${callers} callers: round ${round} of ${rounds}`)
  const measured = await measure(contenders, { callers, seconds, rounds, onRound })
  const { heldMillis } = await away.traffic()
  return { measured, observed: `Observed: bytes were held for ${heldMillis.toFixed(2)} ms, both ways together, on average.` }
}
