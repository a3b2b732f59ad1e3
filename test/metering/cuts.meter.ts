import { expect, it } from 'vitest'
import { cuts as count, cutSeed } from '../support/cuts.ts'
import { type Actor, Stage } from '../support/stage.ts'
import { Asker } from './asker.ts'
import { comeToRest, compareCounters, openAttempts, readRuns } from './books.ts'
import { chooseCuts } from './cut.ts'
import { type Call, Upstream } from './upstream.ts'
import { judge } from './verdict.ts'

/** Answers that are under way at a time. */
const inFlight = 24

const workersAtOnce = 3

/** By how much the output of calls that report nothing may be wrong, all of them together. */
const tolerance = 0.02

it(
  `${count} answers that are cut, SEED=${cutSeed}`,
  async ({ task }) => {
    const cuts = chooseCuts(count, cutSeed)
    const askers: Asker[] = []
    const findings: string[] = []
    const killing: Promise<unknown>[] = []
    const killedAttempts = new Set<string>()
    const upstream = await Upstream.start(cuts, (call) => act(call))
    await using stage = await Stage.open(upstream, { apis: 2, workers: 0 })
    const workers = new Map<string, Actor>()
    const startWorker = async () => {
      const name = `worker-${stage.actors.length}`
      workers.set(name, await stage.startWorker({ OPENAI_BASE_URL: upstream.urlFor(name) }))
    }
    await Promise.all(Array.from({ length: workersAtOnce }, startWorker))
    const urls = stage.apis.map(({ url }) => url)

    async function killWorker(name: string): Promise<void> {
      const victim = workers.get(name)
      if (!victim || victim.killed) return
      await stage.kill(victim)
      const its = new Set(upstream.calls.filter((call) => call.worker === name).map(({ cut }) => cut))
      const runs = new Set(askers.filter(({ cut }) => its.has(cut)).map((asker) => asker.storedId))
      for (const { runId, name: attempt } of await openAttempts(stage)) if (runs.has(runId)) killedAttempts.add(attempt)
      await startWorker()
    }
    async function killApi(url: string): Promise<void> {
      const victim = stage.apis.find((api) => api.url === url)
      if (!victim) return
      await stage.kill(victim)
      await stage.startApi({ port: Number(new URL(url).port) })
    }
    function act({ cut, worker }: Call): void {
      const asker = askers.find((other) => other.cut === cut)
      switch (cut.kind.act) {
        case 'close':
          void asker?.closeSocket({ forGood: false })
          break
        case 'leave':
          void asker?.closeSocket({ forGood: true })
          break
        case 'cancel':
          asker?.cancel()
          break
        case 'killWorker':
          killing.push(killWorker(worker))
          break
        case 'killApi':
          killing.push(killApi(asker?.url ?? ''))
          break
        case undefined:
          break
        default:
          cut.kind.act satisfies never
      }
    }

    const waiting = [...cuts]
    let done = 0
    const asking = async () => {
      for (let cut = waiting.shift(); cut; cut = waiting.shift()) {
        const asker = new Asker(cut, urls, stage.tenants[cut.tenant].memberKey)
        askers.push(asker)
        await asker.ask().catch((error: unknown) => void findings.push(`Cut ${cut.number}: ${error}`))
        if (++done % 25 === 0) process.stderr.write(`${done} of ${count} answers, ${upstream.calls.length} calls\n`)
      }
    }
    await Promise.all(Array.from({ length: inFlight }, asking))
    await Promise.all(killing)

    findings.push(...(await comeToRest(stage)))
    const verdict = judge({ askers, upstream, stored: await readRuns(stage), killedAttempts })
    const estimated = { upstream: 0, ledger: 0 }
    for (const tally of verdict.tallies) {
      estimated.upstream += tally.estimated.upstream
      estimated.ledger += tally.estimated.ledger
    }
    task.meta.metering = verdict
    findings.push(...verdict.findings, ...(await compareCounters(stage)), ...(await stage.fallen()))
    expect(findings).toEqual([])
    expect(Math.abs(estimated.ledger - estimated.upstream)).toBeLessThanOrEqual(tolerance * estimated.upstream)
  },
  600_000 + count * 5_000,
)
