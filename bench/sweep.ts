import type { Bench } from './bench.ts'
import { measureSweep } from './support/sweep-cost.ts'

/** Runs under way, as docs/scale.md plans for them. */
const underWay = 20_000

/** What the look for lost runs costs the database, which grows with the runs under way and is made by every worker. */
export const sweep: Bench = {
  summary: 'what each worker asks the database every two seconds, with 20,000 runs under way',
  byNameOnly: true,
  async run({ progress, database }) {
    const { adminUrl } = await database()
    progress('sweep')
    const costs = await measureSweep(adminUrl, underWay)
    const all = costs.reduce((sum, { millis }) => sum + millis, 0)
    return [
      {
        title: 'What every worker asks every two seconds',
        setup: [`With ${underWay.toLocaleString('en')} runs under way, each with a call: CPU of Postgres for one look.`],
        table: {
          columns: ['', 'CPU ms'],
          rows: [...costs, { name: 'all', millis: all }].map(({ name, millis }) => [name, millis.toFixed(1)]),
        },
        verdicts: [],
      },
    ]
  },
}
