import type { Bench } from './bench.ts'
import { measureSweep, type SweepCost } from './support/sweep-cost.ts'

/** Runs under way, as docs/scale.md plans for them. */
const underWay = 20_000

/** What workers ask the database again and again, which grows with the runs under way, or with the workers. */
export const sweep: Bench = {
  summary: 'what workers ask the database again and again, with 20,000 runs under way',
  byNameOnly: true,
  async run({ progress, database }) {
    const { adminUrl } = await database()
    progress('sweep')
    const { look, own } = await measureSweep(adminUrl, underWay)
    const table = (costs: readonly SweepCost[]) => ({
      columns: ['', 'CPU ms'],
      rows: costs.map(({ name, millis }) => [name, millis.toFixed(2)]),
    })
    const all = look.reduce((sum, { millis }) => sum + millis, 0)
    const setup = `With ${underWay.toLocaleString('en')} runs under way, each with a call: CPU of Postgres for one question.`
    return [
      {
        title: 'What four workers, whichever they are, ask every two seconds',
        setup: [setup],
        table: table([...look, { name: 'all', millis: all }]),
        verdicts: [],
      },
      {
        title: 'What every worker asks: the first twice a second, the second every two seconds',
        setup: [setup],
        table: table(own),
        verdicts: [],
      },
    ]
  },
}
