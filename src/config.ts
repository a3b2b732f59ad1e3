import { resolve } from 'node:path'
import { z } from 'zod'
import {
  addresses,
  integer,
  key,
  keys,
  listed,
  type ModelConcurrency,
  parseModelConcurrency,
  postgresUrl,
  redisUrls,
  secret,
  sender,
  signingSecret,
  url,
  withoutUser,
} from './config-values.ts'

/** What the operator decides. Read once, at start, from the environment. */
export type Config = {
  production: boolean
  /** What this process does: serve the API, execute runs, or both. */
  role: 'all' | 'api' | 'worker'
  host: string
  port: number
  /** Where the embedded database, generated secrets and demo keys live. */
  dataDir: string
  database: { kind: 'embedded' } | { kind: 'external'; appUrl: string; platformUrl: string | null; adminUrl: string | null }
  pool: {
    /** Exclusive connections per process. */
    size: number
    /** Pipelined connections that short reads share; 0 turns sharing off. */
    shared: number
    namedStatements: boolean
    /** Bound on one statement, in milliseconds; 0 leaves it to the server. */
    statementTimeoutMillis: number
  }
  /** Null leaves everything that processes share in this one. The URLs of Sentinel name sentinels. */
  redis:
    | { mode: 'single'; url: string }
    | { mode: 'sentinel'; urls: string[]; master: string; sentinelPassword: string | null }
    | { mode: 'cluster'; urls: string[] }
    | null
  /** The OpenAI-compatible endpoint; null when there is no key: scripted in development, none in production. */
  upstream: { apiKey: string; baseUrl: string } | null
  /** How long a model may be silent, before its first token and after it, in milliseconds. */
  upstreamSilence: { firstTokenMs: number; idleMs: number }
  /** The model a new agent starts with. */
  defaultModel: string
  /** The secret under which API keys are hashed; null means one generated into the data directory. */
  keyPepper: string | null
  /**
   * What everything encrypted rests on, 32 bytes in base64; null means one generated into the data directory. The old ones only
   * decrypt what they encrypted while they were it.
   */
  masterKey: string | null
  oldMasterKeys: string[]
  /** Origins whose pages may open sockets, besides the server's own. */
  allowedOrigins: string[]
  /** What whoever reads `/metrics` has to send as Bearer; null for nothing from this machine in development, and no metrics in production. */
  metricsToken: string | null
  logLevel: 'fatal' | 'error' | 'warn' | 'info' | 'debug' | 'trace' | 'silent'
  /** Runs that one process executes at a time. */
  runConcurrency: number
  /** Calls that upstream models get at a time from all processes together. */
  modelConcurrency: ModelConcurrency
  /** The server that e-mail is handed to, and whom it is from; null when none is sent. */
  mail: { url: string; from: string } | null
  /** Where the usage of all tenants is posted, and what it is signed with; null when nowhere. */
  usageFeed: { url: string; secret: string } | null
  /** What URLs that tenants choose may lead to, beside the public Internet by https. */
  egress: {
    /** Addresses, at one port, or at all of them for null. */
    allowed: { address: string; port: number | null }[]
    allowHttp: boolean
  }
  /** How long backups of the database are kept, in days: certificates of erasure say when the last with the data is gone. */
  backupRetentionDays: number
}

/** The configuration is wrong. The message is one line that says which variable and what to do. */
export class ConfigError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'ConfigError'
  }
}

const environment = z.object({
  NODE_ENV: z.enum(['production', 'development', 'test']).default('development'),
  HOST: z.string().optional(),
  PORT: integer(0, 65_535).default(4_000),
  DATABASE_URL: postgresUrl.optional(),
  DATABASE_PLATFORM_URL: postgresUrl.optional(),
  DATABASE_ADMIN_URL: postgresUrl.optional(),
  DATABASE_POOL_SIZE: integer(1, 1_000).default(10),
  DATABASE_SHARED_CONNECTIONS: integer(0, 100).default(2),
  DATABASE_STATEMENT_TIMEOUT: integer(0, 3_600_000).default(30_000),
  DATABASE_NAMED_STATEMENTS: z.enum(['on', 'off']).default('on'),
  REDIS_URL: redisUrls.optional(),
  REDIS_MODE: z.enum(['single', 'sentinel', 'cluster']).optional(),
  REDIS_SENTINEL_MASTER: z.string().min(1).optional(),
  REDIS_SENTINEL_PASSWORD: z.string().min(1).optional(),
  OPENAI_API_KEY: z.string().min(1).optional(),
  OPENAI_BASE_URL: url('http:', 'https:').optional(),
  OPENAI_FIRST_TOKEN_TIMEOUT: integer(1_000, 300_000).default(120_000),
  OPENAI_IDLE_TIMEOUT: integer(1_000, 300_000).default(30_000),
  BULKHEAD_ROLE: z.enum(['all', 'api', 'worker']).default('all'),
  LOG_LEVEL: z.enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']).optional(),
  BULKHEAD_DATA_DIR: z.string().min(1).default('.bulkhead'),
  BULKHEAD_KEY_PEPPER: secret.optional(),
  BULKHEAD_MASTER_KEY: key.optional(),
  BULKHEAD_OLD_MASTER_KEYS: keys.default([]),
  BULKHEAD_DEFAULT_MODEL: z.string().min(1).optional(),
  BULKHEAD_ALLOWED_ORIGINS: z.string().default(''),
  BULKHEAD_METRICS_TOKEN: secret.optional(),
  BULKHEAD_RUN_CONCURRENCY: integer(1, 10_000).default(100),
  BULKHEAD_MODEL_CONCURRENCY: z
    .string()
    .transform(parseModelConcurrency)
    .refine((concurrency) => concurrency !== null, {
      error: 'must name models with whole numbers, each once, as in `gpt-4o=50,*=200`, where * is all others together',
    })
    .optional(),
  SMTP_URL: url('smtp:', 'smtps:').optional(),
  MAIL_FROM: sender.optional(),
  BULKHEAD_EGRESS_ALLOW: addresses.default([]),
  BULKHEAD_EGRESS_HTTP: z.enum(['on', 'off']).default('off'),
  BULKHEAD_USAGE_FEED_URL: url('http:', 'https:')
    .refine(withoutUser, { error: 'must have no user name and no password' })
    .optional(),
  BULKHEAD_USAGE_FEED_SECRET: signingSecret.optional(),
  BULKHEAD_BACKUP_RETENTION_DAYS: integer(0, 3_650).default(30),
})

/** The model name of the scripted upstream. */
const demoModel = 'bulkhead-demo'

/**
 * Reads the configuration from the environment, where `options` of the command line come before it. Throws ConfigError for the
 * first value that is wrong, missing or unknown.
 */
export function readConfig(options: Record<string, string | undefined> = {}): Config {
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined))
  // An empty variable is how shells and compose files say "not set".
  const present = Object.fromEntries(
    Object.entries({ ...process.env, ...given }).filter(([, value]) => value !== undefined && value !== ''),
  )
  const unknown = Object.keys(present).find((name) => name.startsWith('BULKHEAD_') && !(name in environment.shape))
  if (unknown)
    throw new ConfigError(`${unknown} is not a setting of Bulkhead. Remove it, or check its spelling against the README.`)

  const parsed = environment.safeParse(present)
  if (!parsed.success) {
    const [issue] = parsed.error.issues
    throw new ConfigError(`${String(issue?.path[0])} ${describe(issue)}. Correct it and start again.`)
  }
  const values = parsed.data
  const production = values.NODE_ENV === 'production'
  if (production) requireSecrets(values)
  if (values.BULKHEAD_ROLE !== 'all' && values.REDIS_URL === undefined)
    throw new ConfigError(
      `A process of the role ${values.BULKHEAD_ROLE} meets the others in Redis. Set REDIS_URL, or start with the role all.`,
    )
  const upstream = upstreamOf(values)
  return {
    production,
    role: values.BULKHEAD_ROLE,
    host: values.HOST ?? (production ? '0.0.0.0' : '127.0.0.1'),
    port: values.PORT,
    dataDir: resolve(values.BULKHEAD_DATA_DIR),
    database: databaseOf(values),
    pool: {
      size: values.DATABASE_POOL_SIZE,
      shared: values.DATABASE_SHARED_CONNECTIONS,
      namedStatements: values.DATABASE_NAMED_STATEMENTS === 'on',
      statementTimeoutMillis: values.DATABASE_STATEMENT_TIMEOUT,
    },
    redis: redisOf(values),
    upstream,
    upstreamSilence: { firstTokenMs: values.OPENAI_FIRST_TOKEN_TIMEOUT, idleMs: values.OPENAI_IDLE_TIMEOUT },
    defaultModel: values.BULKHEAD_DEFAULT_MODEL ?? (upstream || production ? 'gpt-4o-mini' : demoModel),
    keyPepper: values.BULKHEAD_KEY_PEPPER ?? null,
    masterKey: values.BULKHEAD_MASTER_KEY ?? null,
    oldMasterKeys: values.BULKHEAD_OLD_MASTER_KEYS,
    allowedOrigins: listed(values.BULKHEAD_ALLOWED_ORIGINS),
    metricsToken: values.BULKHEAD_METRICS_TOKEN ?? null,
    logLevel: values.LOG_LEVEL ?? (production ? 'info' : 'warn'),
    runConcurrency: values.BULKHEAD_RUN_CONCURRENCY,
    modelConcurrency: values.BULKHEAD_MODEL_CONCURRENCY ?? { named: new Map(), others: null },
    mail: mailOf(values),
    usageFeed: usageFeedOf(values),
    egress: { allowed: values.BULKHEAD_EGRESS_ALLOW, allowHttp: allowsHttp(values) },
    backupRetentionDays: values.BULKHEAD_BACKUP_RETENTION_DAYS,
  }
}

type Values = z.infer<typeof environment>

function requireSecrets(values: Values): void {
  for (const name of ['DATABASE_URL', 'DATABASE_PLATFORM_URL', 'BULKHEAD_KEY_PEPPER', 'BULKHEAD_MASTER_KEY'] as const) {
    if (values[name] === undefined)
      throw new ConfigError(`${name} is not set. Production has no default for it: set it and start again.`)
  }
}

function mailOf({ SMTP_URL: url, MAIL_FROM: from }: Values): Config['mail'] {
  if (url === undefined) return null
  if (from === undefined)
    throw new ConfigError('MAIL_FROM is not set and SMTP_URL is. Set it to the address that e-mail is from.')
  return { url, from }
}

function usageFeedOf({ BULKHEAD_USAGE_FEED_URL: url, BULKHEAD_USAGE_FEED_SECRET: secret }: Values): Config['usageFeed'] {
  if (url !== undefined && secret !== undefined) return { url, secret }
  if (url !== undefined)
    throw new ConfigError(
      'BULKHEAD_USAGE_FEED_SECRET is not set and BULKHEAD_USAGE_FEED_URL is. Set it to what usage events are signed with.',
    )
  if (secret !== undefined)
    throw new ConfigError('BULKHEAD_USAGE_FEED_SECRET is set and BULKHEAD_USAGE_FEED_URL is not. Set both, or neither.')
  return null
}

function allowsHttp({ NODE_ENV: environment, BULKHEAD_EGRESS_HTTP: http }: Values): boolean {
  if (http === 'on' && environment === 'production')
    throw new ConfigError('BULKHEAD_EGRESS_HTTP is on, which is for development. Remove it: production calls out by https alone.')
  return http === 'on'
}

function databaseOf(values: Values): Config['database'] {
  if (values.DATABASE_URL !== undefined) {
    return {
      kind: 'external',
      appUrl: values.DATABASE_URL,
      platformUrl: values.DATABASE_PLATFORM_URL ?? null,
      adminUrl: values.DATABASE_ADMIN_URL ?? null,
    }
  }
  const stray = (['DATABASE_PLATFORM_URL', 'DATABASE_ADMIN_URL'] as const).find((name) => values[name] !== undefined)
  if (stray)
    throw new ConfigError(`${stray} is set and DATABASE_URL is not. Set DATABASE_URL too, or neither for the embedded database.`)
  return { kind: 'embedded' }
}

function redisOf(values: Values): Config['redis'] {
  const { REDIS_URL: urls, REDIS_MODE: mode = 'single', REDIS_SENTINEL_MASTER: master } = values
  if (!urls) {
    if (values.REDIS_MODE) throw new ConfigError('REDIS_MODE is set and REDIS_URL is not. Set REDIS_URL too, or neither.')
    return null
  }
  const stray = (['REDIS_SENTINEL_MASTER', 'REDIS_SENTINEL_PASSWORD'] as const).find((name) => values[name] !== undefined)
  if (mode !== 'sentinel' && stray)
    throw new ConfigError(`${stray} is set and REDIS_MODE is ${mode}. Set REDIS_MODE to sentinel, or remove ${stray}.`)
  const [first = '', second] = urls
  switch (mode) {
    case 'single':
      if (second !== undefined)
        throw new ConfigError('REDIS_URL has several URLs. Set REDIS_MODE to sentinel or cluster, or leave one URL.')
      return { mode, url: first }
    case 'sentinel':
      if (master === undefined)
        throw new ConfigError('REDIS_SENTINEL_MASTER is not set. Set it to the name that the sentinels give the master.')
      return { mode, urls, master, sentinelPassword: values.REDIS_SENTINEL_PASSWORD ?? null }
    case 'cluster':
      if (/\d/.test(new URL(first).pathname))
        throw new ConfigError('REDIS_URL names a database, and a cluster has only one. Remove the number after the last slash.')
      return { mode, urls }
    default:
      return mode satisfies never
  }
}

/** An endpoint without a key is one that asks for none, such as a local model server. */
function upstreamOf(values: Values): Config['upstream'] {
  if (values.OPENAI_API_KEY === undefined && values.OPENAI_BASE_URL === undefined) return null
  return { apiKey: values.OPENAI_API_KEY ?? 'none', baseUrl: values.OPENAI_BASE_URL ?? 'https://api.openai.com/v1' }
}

/** Says what is wrong without repeating the value: it may be a secret. */
function describe(issue: { code?: string; message: string; values?: unknown } | undefined): string {
  if (issue?.code === 'invalid_value' && Array.isArray(issue.values)) return `must be one of ${issue.values.join(', ')}`
  return issue?.message ?? 'is not valid'
}
