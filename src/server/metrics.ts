import { timingSafeEqual } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { Counter, collectDefaultMetrics, Gauge, Registry } from 'prom-client'
import type { QuotaLimit } from '../data/generated/enums.ts'
import { bearer } from './credential.ts'

export type MetricsOptions = {
  /** What whoever reads them sends as Bearer. Null: see `local`. */
  token: string | null
  /** Whether, when there is no token, requests from this machine need none. Others, and without this all, are refused. */
  local: boolean
  /** Runs that this process executes now. */
  runs: () => number
}

const limits: readonly QuotaLimit[] = [
  'MESSAGES_PER_MINUTE',
  'MESSAGES_PER_DAY',
  'TOKENS_PER_MESSAGE',
  'CONCURRENT_SESSIONS',
  'MONTHLY_TOKENS',
]

/** What this process measures of itself, in the format of Prometheus. No figure tells of a single tenant. */
export class Metrics {
  readonly #registry = new Registry()
  readonly #options: MetricsOptions
  readonly #refusals: Counter<'limit'>
  readonly #driftTokens: Gauge
  readonly #driftTenants: Gauge
  #streams: () => number = () => 0

  constructor(options: MetricsOptions) {
    this.#options = options
    const registers = [this.#registry]
    collectDefaultMetrics({ register: this.#registry, prefix: 'bulkhead_' })
    this.#refusals = new Counter({
      ...{ name: 'bulkhead_refused_messages_total', help: 'Messages that a limit of their tenant refused.' },
      ...{ labelNames: ['limit'], registers },
    })
    for (const limit of limits) this.#refusals.inc({ limit }, 0)
    this.#driftTokens = new Gauge({
      ...{ name: 'bulkhead_quota_drift_tokens', help: 'Tokens by which counters and ledgers differ, of all tenants together.' },
      registers,
    })
    this.#driftTenants = new Gauge({
      ...{ name: 'bulkhead_quota_drift_tenants', help: 'Tenants whose counters and ledger differ.' },
      registers,
    })
    gauge('bulkhead_runs', 'Runs that this process executes.', options.runs)
    gauge('bulkhead_streams', 'Subscriptions that are in progress here.', () => this.#streams())

    function gauge(name: string, help: string, read: () => number) {
      new Gauge({
        ...{ name, help, registers },
        collect() {
          this.set(read())
        },
      })
    }
  }

  refused(limit: QuotaLimit): void {
    this.#refusals.inc({ limit })
  }

  /** What each tenant's counters say more or less than its ledger. */
  drifted(tokens: readonly number[]): void {
    this.#driftTenants.set(tokens.length)
    this.#driftTokens.set(tokens.reduce((sum, each) => sum + Math.abs(each), 0))
  }

  /** Where the number of subscriptions comes from. */
  watchStreams(count: () => number): void {
    this.#streams = count
  }

  /** Answers a request for the figures: 404, as if there were none, to whoever may not read them. */
  async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (!this.#mayRead(request)) {
      response.writeHead(404, { 'Content-Type': 'text/plain; charset=utf-8' }).end('Not found.\n')
      return
    }
    response.writeHead(200, { 'Content-Type': this.#registry.contentType }).end(await this.#registry.metrics())
  }

  #mayRead({ headers, socket }: IncomingMessage): boolean {
    const { token, local } = this.#options
    if (token === null) return local && isLoopback(socket.remoteAddress)
    const sent = Buffer.from(bearer(headers.authorization) ?? '')
    const expected = Buffer.from(token)
    return sent.length === expected.length && timingSafeEqual(sent, expected)
  }
}

function isLoopback(address: string | undefined): boolean {
  return address === '::1' || /^(::ffff:)?127\./.test(address ?? '')
}
