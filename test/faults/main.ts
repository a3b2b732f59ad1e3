// `npm run test:faults`: breaks everything that can break under real processes, then prints what came of it. `KILLS=500` for the full run.
import { startVitest } from 'vitest/node'
import { FaultReport } from './report.ts'

const [, , ...names] = process.argv
const vitest = await startVitest(names, {
  // Most of the time they wait.
  ...{ run: true, watch: false, include: ['test/faults/**/*.fault.ts'], maxWorkers: 3 },
  reporters: ['default', new FaultReport()],
})
await vitest.close()
