import { PassThrough } from 'node:stream'
import pino from 'pino'
import { RunWorker } from '../../src/domain/run-worker.ts'
import { createOpenAiModel } from '../../src/llm/openai-model.ts'
import type { Limits } from '../../src/server/limits.ts'
import type { Metrics } from '../../src/server/metrics.ts'
import { createServer } from '../../src/server/server.ts'
import { type Api, apiClient } from './api.ts'
import { type FakeUpstream, startFakeUpstream } from './fake-upstream.ts'
import { type Story, type StoryOptions, startStory, type TenantStory } from './story.ts'

export type TestPlatform = {
  url: string
  story: Story
  /** Two tenants with an admin, a member and an end user each. */
  acme: TenantStory
  globex: TenantStory
  /** The model that answers; scripted. */
  upstream: FakeUpstream
  /** A client that uses `key`. Closed with the platform. */
  api(key: string): Api
  /** What the server logged so far, as JSON lines. */
  log: () => Record<string, unknown>[]
  /** Closes the server alone, as a process that shuts down does. */
  closeServer(graceMs: number): Promise<void>
  stop(): Promise<void>
}

export type TestPlatformOptions = {
  limits?: Partial<Limits>
  development?: boolean
  allowedOrigins?: string[]
  metrics?: Metrics
  /** Ports to use instead of those that the story has, but for the model. */
  ports?: StoryOptions['ports']
}

/** The whole platform in one process: a server on a free port, a worker, a database of its own, ports in memory. */
export async function startTestPlatform({ ports: given, ...options }: TestPlatformOptions = {}): Promise<TestPlatform> {
  await using opened = new AsyncDisposableStack()
  const upstream = await startFakeUpstream()
  opened.defer(() => upstream.close())
  const story = await startStory({ ports: { ...given, model: createOpenAiModel({ baseUrl: upstream.url, apiKey: 'test' }) } })
  opened.defer(() => story.close())
  const { data, catalog, ports } = story

  const failures: unknown[] = []
  const worker = new RunWorker({ data, catalog, ports, onError: (error: unknown) => void failures.push(error) })
  await worker.start()
  // Many tests end with answers under way that never would.
  opened.defer(() => worker.drain(1_000))

  const lines: string[] = []
  const server = createServer({
    authenticate: story.authenticate,
    signals: ports.signals,
    accessVersions: (tenantIds) => catalog.tenants.accessVersions(tenantIds),
    logger: pino(
      { level: 'debug' },
      new PassThrough().on('data', (line) => lines.push(String(line))),
    ),
    development: true,
    isReady: async () => true,
    ...options,
  })
  const { url } = await server.listen(0, '127.0.0.1')
  opened.defer(() => server.close(500))

  const clients: Api[] = []
  opened.defer(async () => void (await Promise.all(clients.map(({ client }) => client.close()))))
  const acme = await story.tenant()
  const globex = await story.tenant()
  const resources = opened.move()
  return {
    url,
    story,
    acme,
    globex,
    upstream,
    api(key) {
      const api = apiClient(url, key)
      clients.push(api)
      return api
    },
    closeServer: (graceMs) => server.close(graceMs),
    log: () => lines.map((line) => JSON.parse(line)),
    async stop() {
      await resources.disposeAsync()
      if (failures.length > 0) throw new AggregateError(failures, 'The worker failed in the background.')
    },
  }
}
