import { randomBytes } from 'node:crypto'
import { Catalog } from '../../src/data/catalog.ts'
import type { Plan } from '../../src/data/generated/client.ts'
import { placedPools } from '../../src/data/placed-pools.ts'
import { TenantPool } from '../../src/data/tenant-pool.ts'
import { TenantData } from '../../src/data/tenant-scope.ts'
import type { NewAgent } from '../../src/domain/agent.ts'
import { createApiKey } from '../../src/domain/api-key.ts'
import { type Authenticator, createAuthenticator } from '../../src/domain/authenticate.ts'
import { Unavailable } from '../../src/domain/errors.ts'
import type { Ports, Signal, Toolbox } from '../../src/domain/ports.ts'
import type { DomainSettings, Scope, TenantProfile } from '../../src/domain/scope.ts'
import { registerTenant } from '../../src/domain/tenant.ts'
import { createOpenAiModel } from '../../src/llm/openai-model.ts'
import { seedPrices } from '../../src/llm/prices.ts'
import { MemoryAdmission } from '../../src/memory/admission.ts'
import { MemoryEventLog } from '../../src/memory/event-log.ts'
import { MemoryModelSlots } from '../../src/memory/model-slots.ts'
import { MemoryRunQueue } from '../../src/memory/run-queue.ts'
import { MemorySignals } from '../../src/memory/signals.ts'
import { createCourier } from '../../src/notify/courier.ts'
import { EnvelopeVault } from '../../src/secrets/envelope-vault.ts'
import { createLocalKeyProvider } from '../../src/secrets/key-provider.ts'
import { masterKeysOf } from '../../src/secrets/master-keys.ts'
import { createEgress } from '../../src/tools/egress.ts'
import { createToolbox } from '../../src/tools/toolbox.ts'
import { testCipher } from './placement.ts'
import { createTestDatabase, type TestDatabase } from './postgres.ts'

/** One tenant and its people, each signed in with a key of their own. */
export type TenantStory = {
  tenant: TenantProfile
  admin: Scope
  member: Scope
  endUser: Scope
  keys: { admin: string; member: string; endUser: string }
}

export type Story = {
  database: TestDatabase
  data: TenantData
  catalog: Catalog
  ports: Ports
  settings: DomainSettings
  authenticate: Authenticator
  /** Every signal that was published so far. */
  signals: Signal[]
  /** Moves the platform's clock forward. Until then it runs with the real one. */
  advance(milliseconds: number): void
  /** A new tenant with a unique name, an agent, an admin, a member, and the end user `ursula`. */
  tenant(options?: { plan?: Plan; agent?: Partial<NewAgent> }): Promise<TenantStory>
  /** Another end user of the admin's tenant. */
  endUser(admin: Scope, userId: string): Promise<{ endUser: Scope; key: string }>
  /** The scope of whoever holds the key. Throws when nobody does. */
  signIn(key: string): Promise<Scope>
  /** Throws what went wrong in the background, or when something was left open. */
  close(): Promise<void>
}

export type StoryOptions = {
  /** Ports to use instead of those in memory. The model, unless replaced, can be asked about but not reached. */
  ports?: Partial<Omit<Ports, 'tools'>> & { tools?: Partial<Toolbox> }
  settings?: Partial<DomainSettings>
  /** Connections of the tenants' pool. Default 10. */
  poolSize?: number
  /** Whether models without a price of their own are charged at a ceiling, and not refused. Default true. */
  ceiling?: boolean
}

/** A platform without a server, on a database of its own. For `beforeAll`; `close` it in `afterAll`. */
export async function startStory(options: StoryOptions = {}): Promise<Story> {
  const database = await createTestDatabase()
  const errors: unknown[] = []
  const onError = (error: unknown) => void errors.push(error)
  const openPool = (connectionString: string) =>
    new TenantPool({ connectionString, max: options.poolSize ?? 10, onIdleError: onError })
  const catalog = new Catalog({ connectionString: database.platformUrl, cipher: testCipher, onIdleError: onError })
  const data = new TenantData(openPool(database.appUrl), { elsewhere: placedPools(catalog.placements, openPool) })
  await catalog.registerPrices(await seedPrices({ ceiling: options.ceiling ?? true }))

  let ahead = 0
  const now = () => Date.now() + ahead
  const egress = options.ports?.egress ?? createEgress()
  const ports: Ports = {
    eventLog: new MemoryEventLog({ onError }),
    signals: new MemorySignals({ onError }),
    runQueue: new MemoryRunQueue({ onError }),
    admission: new MemoryAdmission({ onError, now }),
    modelSlots: new MemoryModelSlots({ named: new Map(), others: null }),
    model: createOpenAiModel({ baseUrl: 'http://127.0.0.1:9/v1', apiKey: 'unused' }),
    vault: new EnvelopeVault(createLocalKeyProvider(masterKeysOf(randomBytes(32).toString('base64')))),
    egress,
    courier: createCourier({ egress, mail: null, warn: () => undefined }),
    report: onError,
    now,
    ...options.ports,
    tools: { ...createToolbox({ egress, now }), ...options.ports?.tools },
  }
  const signals: Signal[] = []
  const unsubscribe = await ports.signals.subscribe((signal) => void signals.push(signal))
  const settings: DomainSettings = {
    defaultModel: 'gpt-4o-mini',
    peppers: { current: 1, secrets: new Map([[1, 'pepper in tests']]) },
    backupRetentionDays: 30,
    ...options.settings,
  }
  const authenticate = createAuthenticator({ data, catalog, ports, settings })

  const story: Story = {
    database,
    data,
    catalog,
    ports,
    settings,
    authenticate,
    signals,
    advance: (milliseconds) => {
      ahead += milliseconds
    },
    async tenant({ plan = 'PRO', agent = {} } = {}) {
      const name = `tenant-${randomBytes(6).toString('hex')}`
      const registered = await registerTenant(
        { data, catalog, ports, settings },
        {
          name,
          plan,
          agent: { slug: 'assistant', name: `Assistant of ${name}`, systemPrompt: `You work for ${name}.`, ...agent },
          staff: [
            { name: 'Ada', email: `ada@${name}.example`, role: 'ADMIN' },
            { name: 'Max', email: `max@${name}.example`, role: 'MEMBER' },
          ],
        },
      )
      const [adminKey = '', memberKey = ''] = registered.keys
      const admin = await story.signIn(adminKey)
      const member = await story.signIn(memberKey)
      const { endUser, key } = await story.endUser(admin, 'ursula')
      return { tenant: admin.tenant, admin, member, endUser, keys: { admin: adminKey, member: memberKey, endUser: key } }
    },
    async endUser(admin, userId) {
      const { secret } = await createApiKey(admin, { name: `Key of ${userId}`, role: 'END_USER', userId })
      const key = secret ?? ''
      return { endUser: await story.signIn(key), key }
    },
    async signIn(key) {
      const principal = await authenticate(key)
      if (principal?.kind !== 'tenant') throw new Error('Nobody in a tenant holds this key.')
      return principal.scope
    },
    async close() {
      await unsubscribe()
      await Promise.all([data.close(), catalog.close()])
      await database.drop()
      if (errors.length > 0) throw new AggregateError(errors, 'Something went wrong in the background.')
    },
  }
  return story
}

/** The scope as it is while no signal gets out. */
export function withoutSignals(scope: Scope): Scope {
  const publish = async () => {
    throw new Unavailable('Nobody can be told.', 1)
  }
  return { ...scope, ports: { ...scope.ports, signals: { ...scope.ports.signals, publish } } }
}
