import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { expect, it } from 'vitest'
import { coresFor, peakOf } from '../../bench/support/capacity-plan.ts'
import { unitCost } from '../../bench/support/cluster-load.ts'
import { countedToken, flawsOf, questionFor, tokensAskedFor } from '../../bench/support/counted-text.ts'
import { costOf, cpuMillisIn } from '../../bench/support/process-cost.ts'

const counted = (...numbers: number[]) => numbers.map(countedToken).join('')

it.each([
  ['a whole answer', counted(0, 1, 2, 3), { lost: 0, doubled: 0, gaps: 0 }],
  ['one token lost', counted(0, 1, 3), { lost: 1, doubled: 0, gaps: 1 }],
  ['the end lost', counted(0, 1), { lost: 2, doubled: 0, gaps: 0 }],
  ['one token doubled', counted(0, 1, 1, 2, 3), { lost: 0, doubled: 1, gaps: 1 }],
  ['a stretch repeated', counted(0, 1, 2, 1, 2, 3), { lost: 0, doubled: 2, gaps: 1 }],
  ['two swapped', counted(0, 2, 1, 3), { lost: 0, doubled: 0, gaps: 3 }],
  ['nothing', '', { lost: 4, doubled: 0, gaps: 0 }],
])('tell of %s what is wrong with it', (_, text, flaws) => {
  expect(flawsOf(text, 4)).toEqual(flaws)
})

it('ask for as many tokens as are answered', () => {
  expect(tokensAskedFor(questionFor(317))).toBe(317)
})

it('tell the cost of a token from that of a run, and both from idling', () => {
  const load = (tokens: number, runs: number, seconds: number) => {
    return { tokens, runs, seconds, cpuMillis: seconds * 30 + runs * 8 + tokens * 0.25 }
  }
  const { perToken, perRun, idle } = unitCost(load(0, 0, 10), load(1_000, 100, 20), load(9_000, 20, 30))
  expect([perToken, perRun, idle]).toEqual([expect.closeTo(250), expect.closeTo(8), expect.closeTo(0.03)])
})

it('plan cores for runs and tokens at the peak', () => {
  const peak = peakOf({ runsPerDay: 8_640_000, peakFactor: 2, streams: 1_000, tokensPerSecond: 50 })
  expect(peak).toEqual({ runs: 200, tokens: 50_000 })
  expect(coresFor({ perToken: 100, perRun: 10, idle: 0 }, peak)).toBe(7)
})

it('read CPU time past a name with parentheses and spaces', () => {
  const stat = '7 (a) b (c) S 1 7 7 0 -1 4194304 100 200 0 0 150 50 20 5 20 0 1 0 100 1000 200'
  expect(cpuMillisIn(stat)).toBe(2_250)
})

it('count what children of a process used, also after their end', async () => {
  const busy = 'while (process.cpuUsage().user < 800_000);'
  const parent = `require('child_process').spawnSync(process.execPath, ['-e', ${JSON.stringify(busy)}]); console.log('done'); setInterval(() => {}, 1000)`
  const child = spawn(process.execPath, ['-e', parent])
  try {
    await once(child.stdout, 'data')
    const { cpuMillis, bytes, processes } = await costOf([child.pid ?? 0])
    expect(processes).toBe(1)
    // The parent alone uses a fraction of that.
    expect(cpuMillis).toBeGreaterThan(750)
    expect(bytes).toBeGreaterThan(1_000_000)
  } finally {
    const ended = once(child, 'exit')
    child.kill('SIGKILL')
    await ended
  }
  expect(await costOf([child.pid ?? 0])).toEqual({ cpuMillis: 0, bytes: 0, processes: 0 })
})
