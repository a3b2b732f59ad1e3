import { expect, it } from 'vitest'
import { cuts as count, cutSeed } from '../support/cuts.ts'
import { comeToRest, compareCounters, readRuns } from './books.ts'
import { chooseCuts } from './cut.ts'
import { Trial } from './trial.ts'
import { judge, totalOf } from './verdict.ts'

/** By how much the output of calls that report nothing may be wrong, all of them together. */
const tolerance = 0.02

it(
  `${count} answers that are cut, SEED=${cutSeed}`,
  async ({ task }) => {
    await using trial = await Trial.open(chooseCuts(count, cutSeed))
    const { stage } = trial
    process.stderr.write(`CUTS=${count} SEED=${cutSeed}\n`)
    const findings = await trial.run((done) => {
      if (done % 25 === 0) process.stderr.write(`${done} of ${count} answers, ${stage.provider.calls.length} calls\n`)
    })
    findings.push(...(await comeToRest(stage)))
    const verdict = judge(trial, await readRuns(stage))
    task.meta.metering = verdict
    findings.push(...verdict.findings, ...(await compareCounters(stage)), ...(await stage.fallen()))
    expect(findings).toEqual([])
    const { upstream, ledger } = totalOf(verdict.tallies).estimated
    expect(Math.abs(ledger - upstream)).toBeLessThanOrEqual(tolerance * upstream)
  },
  600_000 + count * 5_000,
)
