// `npm run test:isolation`: every test that proves a rule of isolation, and no other, then the table of what was tried.
import { startVitest } from 'vitest/node'
import { IsolationReport } from './report.ts'
import { rules } from './rules.ts'
import { taggedFiles } from './tagged-files.ts'

const files = [...new Set([...taggedFiles().values()].flat())]
const tagsFilter = [rules.map(({ tag }) => tag).join(' or ')]
const vitest = await startVitest(files, { run: true, watch: false, tagsFilter, reporters: ['default', new IsolationReport()] })
await vitest.close()
