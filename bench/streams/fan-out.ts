import { type ChildProcess, fork } from 'node:child_process'
import { randomBytes, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { setImmediate as turn } from 'node:timers/promises'
import pino from 'pino'
import { type WebSocket, WebSocketServer } from 'ws'
import { Catalog } from '../../src/data/catalog.ts'
import { TenantPool } from '../../src/data/tenant-pool.ts'
import { TenantData } from '../../src/data/tenant-scope.ts'
import { createAuthenticator } from '../../src/domain/authenticate.ts'
import { createConversation } from '../../src/domain/conversation.ts'
import { sendMessage } from '../../src/domain/message.ts'
import type { Ports } from '../../src/domain/ports.ts'
import { logEpoch } from '../../src/domain/run-log.ts'
import type { DomainSettings, Scope } from '../../src/domain/scope.ts'
import { registerTenant } from '../../src/domain/tenant.ts'
import { createOpenAiModel } from '../../src/llm/openai-model.ts'
import { MemoryAdmission } from '../../src/memory/admission.ts'
import { MemoryEventLog } from '../../src/memory/event-log.ts'
import { MemoryModelSlots } from '../../src/memory/model-slots.ts'
import { MemoryRunQueue } from '../../src/memory/run-queue.ts'
import { MemorySignals } from '../../src/memory/signals.ts'
import { createCourier } from '../../src/notify/courier.ts'
import { encodeId } from '../../src/schema/global-id.ts'
import { EnvelopeVault } from '../../src/secrets/envelope-vault.ts'
import { createLocalKeyProvider } from '../../src/secrets/key-provider.ts'
import { masterKeysOf } from '../../src/secrets/master-keys.ts'
import { createPlatformCipher } from '../../src/secrets/platform-cipher.ts'
import { createServer } from '../../src/server/server.ts'
import { createEgress } from '../../src/tools/egress.ts'
import { createToolbox } from '../../src/tools/toolbox.ts'
import type { BenchContext } from '../bench.ts'
import { atLeast, measurementTable, type Report } from '../support/report.ts'
import { measure } from '../support/rounds.ts'

const sockets = 200

/** Tokens of one operation, sent one after the other, each in a turn of the event loop of its own. */
const batch = 64
const together = 8

const token = ' word'
const query = 'subscription ($runId: ID!) { agentReply(runId: $runId) { ... on TextDelta { cursor text } } }'

/** One run, followed by many: what each of its tokens costs for each of its followers. */
export async function fanOut(context: BenchContext): Promise<Report> {
  await using opened = new AsyncDisposableStack()
  const plain = await openPlain(opened)
  const single = await openRun(context, opened)
  const coalesced = await openRun(context, opened)
  const onRound = (round: number) => context.progress(`streams, fan-out: round ${round} of ${context.rounds}`)
  const { seconds, rounds } = context
  const measured = await measure(
    [
      { name: 'ws.send', operation: () => plain.send(batch) },
      { name: 'agentReply', operation: () => single.send(1) },
      { name: `agentReply, ${together} tokens an event`, operation: () => coalesced.send(together) },
    ],
    { callers: 1, seconds, rounds, onRound },
  )
  const [reference, one, many] = measured
  return {
    title: 'Fan-out',
    setup: [
      `An operation is ${batch} tokens to each of ${sockets} sockets, until the last of them has it; the clients are in a process of their own.`,
      '`ws.send` sends each socket the same message, made beforehand. agentReply begins with the append to the event log.',
      `Messages per socket and operation: ${[plain, single, coalesced].map(({ perSocket }) => perSocket().toFixed(1)).join(', ')}.`,
    ],
    table: measurementTable(measured),
    verdicts: [atLeast(8, 0.85, one, reference), atLeast(8, 4, many, reference)],
  }
}

/** Clients that say when a batch has reached them all. */
async function openClients(port: number, messages: string[], opened: AsyncDisposableStack) {
  const child: ChildProcess = fork(new URL('./fan-out-clients-process.ts', import.meta.url))
  opened.defer(async () => {
    const exited = once(child, 'exit')
    child.disconnect()
    await exited
  })
  child.send({ port, sockets, messages })
  await once(child, 'message')
  let batches = 0
  let arrived = 0
  return {
    async reached(): Promise<void> {
      const [{ messages: count }] = (await once(child, 'message')) as [{ messages: number }]
      batches += 1
      arrived += count
    },
    perSocket: () => arrived / batches / sockets,
  }
}

async function openPlain(opened: AsyncDisposableStack) {
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' })
  opened.defer(() => new Promise<void>((resolve) => server.close(() => resolve())))
  opened.defer(async () => {
    for (const client of server.clients) client.terminate()
  })
  await once(server, 'listening')
  const clients: WebSocket[] = []
  server.on('connection', (client) => void clients.push(client))
  const { reached, perSocket } = await openClients((server.address() as AddressInfo).port, [], opened)
  const message = (text: string) =>
    JSON.stringify({ id: randomUUID(), type: 'next', payload: { data: { agentReply: { cursor: '1000-1000', text } } } })
  return {
    perSocket,
    async send(count: number): Promise<void> {
      const done = reached()
      for (let sent = 1; sent <= count; sent++) {
        const text = message(sent === count ? `${token}#` : token)
        for (const client of clients) client.send(text)
        await turn()
      }
      await done
    },
  }
}

/** The platform's own server, in this process, and a run that is answered by hand. */
async function openRun(context: BenchContext, opened: AsyncDisposableStack) {
  const platform = await openPlatform(context, opened)
  const { scope, key, port, ports } = platform
  const conversation = await createConversation(scope, {})
  const { run } = await sendMessage(scope, { conversationId: conversation.id, content: 'Say something.' })
  await scope.db.run.updateMany({ where: { id: run.id }, data: { status: 'RUNNING', epoch: 1 } })
  const ref = { tenantId: scope.tenant.id, runId: run.id }
  let seq = 0
  const append = async (text: string) => {
    seq += 1
    await ports.eventLog.append(ref, logEpoch(1), seq, [{ type: 'TextDelta', text }])
  }
  await append('First')
  const { reached, perSocket } = await openClients(
    port,
    [
      JSON.stringify({ type: 'connection_init', payload: { authorization: `Bearer ${key}` } }),
      JSON.stringify({ id: '1', type: 'subscribe', payload: { query, variables: { runId: encodeId('Run', run.id) } } }),
    ],
    opened,
  )
  return {
    perSocket,
    async send(tokensPerEvent: number): Promise<void> {
      const done = reached()
      for (let sent = tokensPerEvent; sent <= batch; sent += tokensPerEvent) {
        await append(token.repeat(tokensPerEvent) + (sent === batch ? '#' : ''))
        await turn()
      }
      await done
    },
  }
}

async function openPlatform(context: BenchContext, opened: AsyncDisposableStack) {
  const { appUrl, platformUrl } = await context.database()
  const onError = (error: unknown) => context.progress(String(error))
  const keys = masterKeysOf(randomBytes(32).toString('base64'))
  const catalog = new Catalog({ connectionString: platformUrl, cipher: createPlatformCipher(keys) })
  opened.defer(() => catalog.close())
  const data = new TenantData(new TenantPool({ connectionString: appUrl }))
  opened.defer(() => data.close())
  const egress = createEgress()
  const ports: Ports = {
    eventLog: new MemoryEventLog({ onError }),
    signals: new MemorySignals({ onError }),
    runQueue: new MemoryRunQueue({ onError }),
    admission: new MemoryAdmission({ onError }),
    modelSlots: new MemoryModelSlots({ named: new Map(), others: null }),
    model: createOpenAiModel({ baseUrl: 'http://127.0.0.1:9/v1', apiKey: 'unused' }),
    tools: createToolbox({ egress, now: Date.now }),
    vault: new EnvelopeVault(createLocalKeyProvider(keys)),
    egress,
    courier: createCourier({ egress, mail: null, warn: () => undefined }),
    report: onError,
    now: Date.now,
  }
  const settings: DomainSettings = {
    defaultModel: 'bench',
    peppers: { current: 1, secrets: new Map([[1, 'pepper']]) },
    backupRetentionDays: 30,
  }
  const name = `fan-out-${randomBytes(4).toString('hex')}`
  const agent = { slug: 'assistant', name: 'Assistant', systemPrompt: 'Be brief.' }
  const staff = [{ name: 'Ada', email: `ada@${name}.example`, role: 'ADMIN' as const }]
  const {
    keys: [key = ''],
  } = await registerTenant({ data, catalog, ports, settings }, { name, plan: 'ENTERPRISE', agent, staff })
  const authenticate = createAuthenticator({ data, catalog, ports, settings })
  const server = createServer({
    authenticate,
    signals: ports.signals,
    accessVersions: (tenantIds) => catalog.tenants.accessVersions(tenantIds),
    logger: pino({ level: 'silent' }),
    development: false,
    isReady: async () => true,
    // The clients answer no pings.
    limits: { keepAliveMs: 3_600_000, connectionInitMs: 60_000 },
  })
  const { url } = await server.listen(0, '127.0.0.1')
  opened.defer(() => server.close(1_000))
  const principal = await authenticate(key)
  if (principal?.kind !== 'tenant') throw new Error('The key that was just made is refused.')
  const scope: Scope = principal.scope
  return { scope, key, port: Number(new URL(url).port), ports }
}
