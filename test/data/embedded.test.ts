import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import pg from 'pg'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { startEmbeddedPostgres } from '../../src/data/embedded.ts'
import { isServerOf } from '../../src/data/postgres-process.ts'

// One data directory for all: making a database is the slow part.
let dataDir: string

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'bulkhead-embedded-'))
  await chmod(dataDir, 0o755)
})

afterAll(() => rm(dataDir, { recursive: true }))

const start = () => startEmbeddedPostgres({ dataDir, settings: { fsync: 'off' } })

async function query(url: string, sql: string): Promise<unknown[][]> {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    return (await client.query({ text: sql, rowMode: 'array' })).rows
  } finally {
    await client.end()
  }
}

/** Another process of the platform on the same data directory. Resolves once its database is up. */
async function startElsewhere(): Promise<{ owner: ChildProcess; adminUrl: string }> {
  const module = new URL('../../src/data/embedded.ts', import.meta.url).href
  const script = `const { startEmbeddedPostgres } = await import(${JSON.stringify(module)})
    const { adminUrl } = await startEmbeddedPostgres({ dataDir: ${JSON.stringify(dataDir)}, settings: { fsync: 'off' } })
    console.log(adminUrl)
    process.stdin.on('end', () => process.exit()).resume()`
  const owner = spawn(process.execPath, ['--input-type=module', '--eval', script], { stdio: ['pipe', 'pipe', 'inherit'] })
  const [adminUrl] = await once(createInterface(owner.stdout), 'line')
  return { owner, adminUrl }
}

const serverPid = async () => Number((await readFile(join(dataDir, 'postgres', 'postmaster.pid'), 'utf8')).split('\n')[0])

const isRunning = (pid: number) => isServerOf(join(dataDir, 'postgres'), pid)

it('keeps data and passwords from one start to the next, and leaves no process and no lock', async () => {
  const first = await start()
  expect(await query(first.adminUrl, `select current_setting('server_version_num')::int >= 180000`)).toEqual([[true]])
  await query(first.adminUrl, 'create table kept as select 1 as n')
  const pid = await serverPid()
  await first.stop()
  await first.stop()
  expect(await isRunning(pid)).toBe(false)
  expect((await readdir(dataDir)).sort()).toEqual(['postgres', 'postgres.json', 'postgres.log'])
  expect(await readdir(join(dataDir, 'postgres'))).not.toContain('postmaster.pid')

  const second = await start()
  expect(await query(second.adminUrl, 'select n from kept')).toEqual([[1]])
  expect(new URL(second.adminUrl).password).toBe(new URL(first.adminUrl).password)
  await second.stop()
})

it('listens on loopback alone and asks for the password, which only the owner of the data directory can read', async () => {
  const server = await start()
  const stranger = new URL(server.adminUrl)
  stranger.password = 'guess'
  await expect(query(stranger.href, 'select 1')).rejects.toThrow('password authentication failed')
  expect(
    await query(
      server.adminUrl,
      `select name, setting from pg_settings where name in ('listen_addresses', 'unix_socket_directories', 'password_encryption') order by 1`,
    ),
  ).toEqual([
    ['listen_addresses', '127.0.0.1'],
    ['password_encryption', 'scram-sha-256'],
    ['unix_socket_directories', ''],
  ])
  await server.stop()
  for (const file of ['postgres.json', 'postgres.log']) expect((await stat(join(dataDir, file))).mode & 0o777).toBe(0o600)
})

it('refuses a data directory that another living process uses, and leaves that one alone', async () => {
  const { owner, adminUrl } = await startElsewhere()
  await expect(start()).rejects.toThrow(
    `The database in ${join(dataDir, 'postgres')} is in use by another Bulkhead process. Stop that one first.`,
  )
  expect(await query(adminUrl, 'select 1')).toEqual([[1]])
  owner.stdin?.end()
  await once(owner, 'exit')
})

it('stops with its process, and takes over from one that was killed', async () => {
  const { owner, adminUrl } = await startElsewhere()
  await query(adminUrl, 'create table survivor as select 1 as n')
  const orphan = await serverPid()
  owner.kill('SIGKILL')
  await once(owner, 'exit')
  expect(await isRunning(orphan)).toBe(true)

  const next = await startElsewhere()
  expect(await isRunning(orphan)).toBe(false)
  expect(await query(next.adminUrl, 'select n from survivor')).toEqual([[1]])
  const pid = await serverPid()
  next.owner.stdin?.end()
  await once(next.owner, 'exit')
  await expect.poll(() => isRunning(pid), { timeout: 5_000 }).toBe(false)
})

it('is not stopped by the terminal: it runs in a session of its own', async () => {
  const server = await start()
  const stat = await readFile(`/proc/${await serverPid()}/stat`, 'utf8')
  const [, , group, session] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  expect([group, session]).toEqual([String(await serverPid()), String(await serverPid())])
  await server.stop()
})

it('says what the server said when it cannot start, and nothing runs on', async () => {
  const failure = await startEmbeddedPostgres({ dataDir, settings: { shared_buffers: 'plenty' } }).catch((error: Error) => error)
  expect(String(failure)).toBe(
    `EmbeddedPostgresError: The embedded database does not start: invalid value for parameter "shared_buffers": "plenty" (${join(dataDir, 'postgres.log')})`,
  )
})
