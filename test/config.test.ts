import { randomBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { ConfigError, readConfig } from '../src/config.ts'

const key = () => randomBytes(32).toString('base64')

const production = {
  NODE_ENV: 'production',
  DATABASE_URL: 'postgres://app@db/bulkhead',
  DATABASE_PLATFORM_URL: 'postgres://platform@db/bulkhead',
  BULKHEAD_KEY_PEPPER: 'p'.repeat(32),
  BULKHEAD_MASTER_KEY: key(),
}

describe('Redis', () => {
  const unset = { REDIS_URL: '', REDIS_MODE: '', REDIS_SENTINEL_MASTER: '', REDIS_SENTINEL_PASSWORD: '' }
  const redis = (values: Record<string, string>) => readConfig({ ...unset, ...values }).redis

  it('is one server, a cluster, or a master that sentinels know', () => {
    expect(redis({})).toBeNull()
    const one = 'redis://:a,b@one:6379/2'
    expect(redis({ REDIS_URL: one })).toEqual({ mode: 'single', url: one })
    const [first, second] = ['rediss://user:a,b@one', 'rediss://user:a,b@two:7000']
    const both = `${first}, ${second}`
    expect(redis({ REDIS_URL: both, REDIS_MODE: 'cluster' })).toEqual({ mode: 'cluster', urls: [first, second] })
    const sentinel = { REDIS_URL: both, REDIS_MODE: 'sentinel', REDIS_SENTINEL_MASTER: 'main' }
    const target = { mode: 'sentinel', urls: [first, second], master: 'main' }
    expect(redis(sentinel)).toEqual({ ...target, sentinelPassword: null })
    expect(redis({ ...sentinel, REDIS_SENTINEL_PASSWORD: 'x' })).toEqual({ ...target, sentinelPassword: 'x' })
  })

  it.each([
    [{ REDIS_URL: 'http://secret@one' }, 'REDIS_URL must be a URL that starts with redis:// or rediss://.'],
    [{ REDIS_URL: 'redis://secret@one/name' }, 'REDIS_URL must name a database by its number.'],
    [{ REDIS_URL: 'redis://secret@one,redis://secret@two' }, 'REDIS_URL has several URLs. Set REDIS_MODE'],
    [{ REDIS_URL: 'redis://secret@one,rediss://secret@two', REDIS_MODE: 'cluster' }, 'REDIS_URL must have the same protocol'],
    [
      { REDIS_URL: 'redis://secret@one,redis://two', REDIS_MODE: 'cluster' },
      'REDIS_URL must have the same protocol, user, password',
    ],
    [{ REDIS_URL: 'redis://secret@one/1', REDIS_MODE: 'cluster' }, 'REDIS_URL names a database, and a cluster has only one.'],
    [{ REDIS_URL: 'redis://one', REDIS_MODE: 'sentinel' }, 'REDIS_SENTINEL_MASTER is not set.'],
    [{ REDIS_URL: 'redis://one', REDIS_SENTINEL_MASTER: 'main' }, 'REDIS_SENTINEL_MASTER is set and REDIS_MODE is single.'],
    [{ REDIS_URL: 'redis://one', REDIS_MODE: 'mesh' }, 'REDIS_MODE must be one of single, sentinel, cluster.'],
    [{ REDIS_MODE: 'cluster' }, 'REDIS_MODE is set and REDIS_URL is not.'],
  ])('%o is refused in one line', (values, message) => {
    expect(() => redis(values)).toThrow(ConfigError)
    expect(() => redis(values)).toThrow(message)
    expect(() => redis(values)).not.toThrow(/secret|\n/)
  })
})

describe('the way out', () => {
  const unset = {
    ...{ NODE_ENV: 'development', SMTP_URL: '', MAIL_FROM: '', BULKHEAD_EGRESS_ALLOW: '', BULKHEAD_EGRESS_HTTP: '' },
    ...{ BULKHEAD_USAGE_FEED_URL: '', BULKHEAD_USAGE_FEED_SECRET: '' },
  }
  const read = (values: Record<string, string>) => readConfig({ ...unset, ...values })

  it('is for e-mail the server that is set, and for what tenants choose the public Internet alone', () => {
    expect(read({})).toMatchObject({ mail: null, egress: { allowed: [], allowHttp: false } })
    const mail = { SMTP_URL: 'smtps://user:secret@mail.example:465', MAIL_FROM: 'Bulkhead <bulkhead@example.com>' }
    expect(read(mail).mail).toEqual({ url: mail.SMTP_URL, from: mail.MAIL_FROM })
  })

  it('is for usage the URL that is set, wherever it leads', () => {
    expect(read({}).usageFeed).toBeNull()
    const secret = `whsec_${key()}`
    const url = 'http://10.1.2.3:81/usage?token=a'
    const feed = { BULKHEAD_USAGE_FEED_URL: url, BULKHEAD_USAGE_FEED_SECRET: secret }
    expect(read(feed).usageFeed).toEqual({ url, secret })
    expect(read({ ...production, ...feed }).usageFeed).toEqual({ url, secret })
  })

  it('has what the operator lists, by its address', () => {
    const { egress } = read({
      BULKHEAD_EGRESS_ALLOW: '127.0.0.1:9000, 10.1.2.3,[FD00:0::1]:9000,[::1]',
      BULKHEAD_EGRESS_HTTP: 'on',
    })
    const allowed = [
      { address: '127.0.0.1', port: 9_000 },
      { address: '10.1.2.3', port: null },
      { address: 'fd00::1', port: 9_000 },
      { address: '::1', port: null },
    ]
    expect(egress).toEqual({ allowed, allowHttp: true })
  })

  it.each<[Record<string, string>, string]>([
    [{ SMTP_URL: 'http://secret@mail.example' }, 'SMTP_URL must be a URL that starts with smtp:// or smtps://.'],
    [{ SMTP_URL: 'smtp://user:secret@mail.example' }, 'MAIL_FROM is not set and SMTP_URL is.'],
    [{ MAIL_FROM: 'secret' }, 'MAIL_FROM must be an address'],
    [{ MAIL_FROM: 'secret <a@b>\nBcc: c@d' }, 'MAIL_FROM must be an address'],
    ...['secret.example', '10.1.2', '10.1.2.3:0', '10.1.2.3:65536', '10.0.0.0/8', '::1'].map(
      (address): [Record<string, string>, string] => [
        { BULKHEAD_EGRESS_ALLOW: address },
        'BULKHEAD_EGRESS_ALLOW must be addresses',
      ],
    ),
    [
      { BULKHEAD_USAGE_FEED_URL: 'https://feed.example' },
      'BULKHEAD_USAGE_FEED_SECRET is not set and BULKHEAD_USAGE_FEED_URL is.',
    ],
    [{ BULKHEAD_USAGE_FEED_SECRET: `whsec_${key()}` }, 'BULKHEAD_USAGE_FEED_SECRET is set and BULKHEAD_USAGE_FEED_URL is not.'],
    [{ BULKHEAD_USAGE_FEED_SECRET: 'secret' }, 'BULKHEAD_USAGE_FEED_SECRET must be whsec_ and 24 to 64 random bytes in base64'],
    [
      { BULKHEAD_USAGE_FEED_SECRET: `whsec_${'A'.repeat(33)}` },
      'BULKHEAD_USAGE_FEED_SECRET must be whsec_ and 24 to 64 random bytes',
    ],
    [{ BULKHEAD_USAGE_FEED_URL: 'ftp://secret' }, 'BULKHEAD_USAGE_FEED_URL must be a URL that starts with http:// or https://.'],
    [{ BULKHEAD_USAGE_FEED_URL: 'https://user:secret@feed.example' }, 'BULKHEAD_USAGE_FEED_URL must have no user name'],
    [{ ...production, BULKHEAD_EGRESS_HTTP: 'on' }, 'BULKHEAD_EGRESS_HTTP is on, which is for development.'],
  ])('is refused in one line when it is %o', (values, message) => {
    expect(() => read(values)).toThrow(ConfigError)
    expect(() => read(values)).toThrow(message)
    expect(() => read(values)).not.toThrow(/secret|\n/)
  })
})

describe('a model', () => {
  it('may be silent for as long as is said, and not longer than can be told', () => {
    const silence = (values: Record<string, string>) => readConfig(values).upstreamSilence
    expect(silence({})).toEqual({ firstTokenMs: 120_000, idleMs: 30_000 })
    expect(silence({ OPENAI_FIRST_TOKEN_TIMEOUT: '5000', OPENAI_IDLE_TIMEOUT: '1000' })).toEqual({
      ...{ firstTokenMs: 5_000, idleMs: 1_000 },
    })
    expect(() => silence({ OPENAI_IDLE_TIMEOUT: '300001' })).toThrow('OPENAI_IDLE_TIMEOUT must be between 1000 and 300000.')
  })
})

describe('the concurrency of models', () => {
  const read = (text: string) => readConfig({ BULKHEAD_MODEL_CONCURRENCY: text }).modelConcurrency

  it('is a number for each model that is named, and one for all others', () => {
    expect(read('')).toEqual({ named: new Map(), others: null })
    expect(read('gpt-4o=50')).toEqual({ named: new Map([['gpt-4o', 50]]), others: null })
    expect(read('gpt-4o=50, *=200')).toEqual({ named: new Map([['gpt-4o', 50]]), others: 200 })
  })

  it.each(['gpt-4o', 'gpt-4o=0', 'gpt-4o=-1', 'gpt-4o=1.5', '=5', 'a=1,a=2', 'a=1,,b=2'])('as in %s is refused', (text) => {
    expect(() => read(text)).toThrow('BULKHEAD_MODEL_CONCURRENCY must name models with whole numbers')
  })
})

describe('the master key', () => {
  it.each(['DATABASE_URL', 'DATABASE_PLATFORM_URL', 'BULKHEAD_KEY_PEPPER', 'BULKHEAD_MASTER_KEY'])(
    'is, as all secrets, required in production: without %s it does not start',
    (name) => {
      expect(readConfig(production).masterKey).toBe(production.BULKHEAD_MASTER_KEY)
      expect(() => readConfig({ ...production, [name]: '' })).toThrow(`${name} is not set.`)
    },
  )

  it('may be left out in development', () => {
    const unset = { NODE_ENV: 'development', BULKHEAD_MASTER_KEY: '', BULKHEAD_OLD_MASTER_KEYS: '' }
    expect(readConfig(unset)).toMatchObject({ masterKey: null, oldMasterKeys: [] })
  })

  it('may have had others before it', () => {
    const [one, two] = [key(), key()]
    expect(readConfig({ ...production, BULKHEAD_OLD_MASTER_KEYS: `${one}, ${two}` }).oldMasterKeys).toEqual([one, two])
  })

  it.each([
    ['BULKHEAD_MASTER_KEY', 'hunter2'],
    ['BULKHEAD_MASTER_KEY', randomBytes(31).toString('base64')],
    ['BULKHEAD_MASTER_KEY', randomBytes(33).toString('base64')],
    ['BULKHEAD_MASTER_KEY', randomBytes(32).toString('hex')],
    ['BULKHEAD_OLD_MASTER_KEYS', `${key()},hunter2`],
  ])('is refused when %s is %s, which is not repeated', (name, value) => {
    const read = () => readConfig({ ...production, [name]: value })
    expect(read).toThrow(ConfigError)
    expect(read).toThrow(name)
    expect(read).not.toThrow(value)
  })
})
