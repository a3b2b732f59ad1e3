import { graphqlClient } from '../support/graphql-client.ts'
import { type Actor, Stage } from '../support/stage.ts'
import { Asker } from './asker.ts'
import type { Cut } from './cut.ts'
import { type Call, Upstream } from './upstream.ts'

/** Answers that are under way at a time. */
const inFlight = 24

const workersAtOnce = 3

/** The model that answers when the agents' own does not. */
const standIn = 'gpt-4.1-mini'

/** The platform while its answers are cut: who asks, and what is done to whom once an answer has come so far. */
export class Trial {
  readonly stage: Stage<Upstream>
  readonly askers: Asker[] = []
  readonly #cuts: readonly Cut[]
  /** By the name under which the upstream knows them. */
  readonly #workers = new Map<string, Actor>()
  readonly #killing: Promise<void>[] = []

  private constructor(cuts: readonly Cut[], stage: Stage<Upstream>) {
    this.#cuts = cuts
    this.stage = stage
  }

  static async open(cuts: readonly Cut[]): Promise<Trial> {
    const upstream = await Upstream.start(cuts, (call) => trial.#act(call))
    const trial = new Trial(cuts, await Stage.open(upstream, { apis: 2, workers: 0 }))
    await trial.#nameStandIns()
    await Promise.all(Array.from({ length: workersAtOnce }, () => trial.#startWorker()))
    return trial
  }

  /** Has every answer made and cut. What clients were not to be told, in words. */
  async run(onDone: (done: number) => void): Promise<string[]> {
    const urls = this.stage.apis.map(({ url }) => url)
    const waiting = [...this.#cuts]
    const findings: string[] = []
    let done = 0
    const askInTurn = async () => {
      for (let cut = waiting.shift(); cut; cut = waiting.shift()) {
        const { number, tenant } = cut
        const asker = new Asker(cut, urls, this.stage.tenants[tenant].memberKey)
        this.askers.push(asker)
        await asker.ask().catch((error: unknown) => void findings.push(`Cut ${number}: ${error}`))
        onDone(++done)
      }
    }
    await Promise.all(Array.from({ length: inFlight }, askInTurn))
    await Promise.all(this.#killing)
    return findings
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stage[Symbol.asyncDispose]()
  }

  #act({ cut, worker }: Call): void {
    const asker = this.askers.find((other) => other.cut === cut)
    if (!asker) return
    switch (cut.kind.act) {
      case 'close':
      case 'leave':
        asker.closeSocket({ forGood: cut.kind.act === 'leave' })
        break
      case 'cancel':
        asker.cancel()
        break
      case 'killWorker':
        this.#killing.push(this.#killWorker(worker))
        break
      case 'killApi':
        this.#killing.push(this.#killApi(asker.url))
        break
      case undefined:
        break
      default:
        cut.kind.act satisfies never
    }
  }

  /** Every agent has another model to turn to. */
  async #nameStandIns(): Promise<void> {
    const { apis, tenants } = this.stage
    for (const { adminKey } of tenants) {
      const client = graphqlClient(apis[0]?.url ?? '', adminKey)
      await client.data(`mutation { updateAgentConfig(input: { fallbackModels: ["${standIn}"] }) { __typename } }`)
      await client.close()
    }
  }

  async #startWorker(): Promise<void> {
    const name = `worker-${this.stage.actors.length}`
    this.#workers.set(name, await this.stage.startWorker({ OPENAI_BASE_URL: this.stage.provider.urlFor(name) }))
  }

  /** Starts another one in its place. */
  async #killWorker(name: string): Promise<void> {
    const victim = this.#workers.get(name)
    if (!victim || victim.killed) return
    await this.stage.kill(victim)
    await this.#startWorker()
  }

  async #killApi(url: string): Promise<void> {
    const victim = this.stage.apis.find((api) => api.url === url)
    if (!victim) return
    await this.stage.kill(victim)
    await this.stage.startApi({ port: Number(new URL(url).port) })
  }
}
