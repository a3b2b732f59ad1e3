// `npm run test:metering`: cuts answers in every way, then prints how the ledger compares with the upstream's books. `CUTS=1000` for the full run.
import { startVitest } from 'vitest/node'
import { MeteringReport } from './report.ts'

const vitest = await startVitest([], {
  ...{ run: true, watch: false, include: ['test/metering/**/*.meter.ts'], maxWorkers: 1 },
  reporters: ['default', new MeteringReport()],
})
await vitest.close()
