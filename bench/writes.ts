import type { Bench, BenchContext } from './bench.ts'
import { openPrisma, openScopes, transactionFor } from './support/clients.ts'
import { atLeast, measurementTable, type Report } from './support/report.ts'
import { type Contender, measure } from './support/rounds.ts'
import { newConversation, newTurn, perTenant, pick, startTurn } from './support/workload.ts'

const callers = 16
const connections = 10

/** What a wall costs where rows are written: one insert, and the two inserts that start a turn. */
export const writes: Bench = {
  summary: 'one insert, and a transaction of two, beside the interactive transaction that people write',
  async run(context) {
    const { appUrl, tenants } = await context.database()
    const { client: prisma, ...people } = openPrisma(appUrl, connections)
    const scopes = openScopes(appUrl, connections, 0)
    const scopeOf = perTenant(tenants, scopes.of)
    try {
      const insert = await compare(context, {
        title: 'One insert',
        what: 'One conversation',
        goal: 2.2,
        reference: async () => {
          const tenant = pick(tenants)
          const data = newConversation(tenant)
          await transactionFor(prisma, tenant.tenantId, (tx) => tx.conversation.create({ data }))
        },
        scoped: async () => {
          const tenant = pick(tenants)
          await scopeOf(tenant.tenantId).conversation.create({ data: newConversation(tenant) })
        },
      })
      const turn = await compare(context, {
        title: 'A turn',
        what: 'A run and the message that asks for it, in one transaction',
        goal: 1.4,
        reference: () => {
          const rows = newTurn(pick(tenants))
          return transactionFor(prisma, rows.run.tenantId, (tx) => startTurn(tx, rows))
        },
        scoped: () => {
          const rows = newTurn(pick(tenants))
          return scopeOf(rows.run.tenantId).$transaction((tx) => startTurn(tx, rows))
        },
      })
      return [insert, turn]
    } finally {
      await Promise.all([people.close(), scopes.close()])
    }
  },
}

type Comparison = {
  title: string
  what: string
  goal: number
  reference: Contender['operation']
  scoped: Contender['operation']
}

async function compare(context: BenchContext, { title, what, goal, reference, scoped }: Comparison): Promise<Report> {
  const { seconds, rounds, progress } = context
  const onRound = (round: number) => progress(`writes, ${title.toLowerCase()}: round ${round} of ${rounds}`)
  const measured = await measure(
    [
      { name: "Prisma's interactive transaction", operation: reference },
      { name: `tenant-scoped, ${title.toLowerCase()}`, operation: scoped },
    ],
    { callers, seconds, rounds, onRound },
  )
  const [theirs, ours] = measured
  return {
    title,
    setup: [`${what}, of a random tenant; ${callers} callers, ${connections} connections.`],
    table: measurementTable(measured),
    verdicts: [atLeast(10, goal, ours, theirs)],
  }
}
