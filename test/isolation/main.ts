// `npm run test:isolation`: every test that proves a rule of isolation, and no other, then the table of what was tried of each.
import { BaseSequencer, startVitest, type TestSpecification } from 'vitest/node'
import { IsolationReport } from './report.ts'
import { rules } from './rules.ts'
import { taggedFiles } from './tagged-files.ts'

/** What takes longest, longest first: begun last, one of these would go on when all others have ended. */
const longest = [
  'test/isolation/matrix.test.ts',
  'test/isolation/policies-alone.test.ts',
  'test/isolation/filter-alone.test.ts',
  'test/isolation/injection.test.ts',
  'test/e2e/traces.test.ts',
  'test/server/slow-readers.test.ts',
  'test/e2e/access-changed.test.ts',
  'test/e2e/erasure.test.ts',
  'test/isolation/filter.test.ts',
  'test/isolation/both-walls.test.ts',
  'test/isolation/two-walls.test.ts',
  'test/isolation/pools.test.ts',
]

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId }: TestSpecification) => {
      const index = longest.findIndex((file) => moduleId.endsWith(file))
      return index === -1 ? longest.length : index
    }
    return (await super.sort(files)).toSorted((a, b) => place(a) - place(b))
  }
}

const files = [...new Set([...taggedFiles().values()].flat())]
const vitest = await startVitest(files, {
  run: true,
  watch: false,
  tagsFilter: [rules.map(({ tag }) => tag).join(' or ')],
  reporters: ['default', new IsolationReport()],
  sequence: { sequencer: LongestFirst },
  // Several of the tests mostly wait: for a dead worker's lease to run out, for a stream to stay silent.
  maxWorkers: 3,
  // Much is made and soon forgotten.
  execArgv: ['--max-semi-space-size=64'],
})
await vitest.close()
