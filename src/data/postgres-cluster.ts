import { execFile } from 'node:child_process'
import { chown, mkdir, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { EmbeddedPostgresError } from './embedded-error.ts'
import type { Account, Binaries } from './postgres-binaries.ts'

/** The environment of Postgres' programs. Nothing of ours is in it: ours may hold keys, and they need none of it. */
export const environment = { PATH: '/usr/local/bin:/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' }
const major = '18'

/** Makes an empty cluster in `directory`, whole or not at all, unless there is one. The superuser is `postgres`. */
export async function ensureCluster(
  directory: string,
  { initdb }: Binaries,
  account: Account,
  superuserPassword: string,
): Promise<void> {
  const version = await readFile(join(directory, 'PG_VERSION'), 'utf8').catch(() => null)
  if (version?.trim() === major) return
  if (version)
    throw new EmbeddedPostgresError(
      `${directory} was made by PostgreSQL ${version.trim()}, and this version embeds PostgreSQL ${major}. Move it away, or use DATABASE_URL.`,
    )
  const secrets = await mkdtemp(join(tmpdir(), 'bulkhead-initdb-'))
  const draft = `${directory}.${process.pid}`
  try {
    const passwordFile = join(secrets, 'password')
    await writeFile(passwordFile, superuserPassword, { mode: 0o600 })
    await mkdir(draft, { mode: 0o700 })
    if (account) await Promise.all([secrets, passwordFile, draft].map((path) => chown(path, account.uid, account.gid)))
    // The builtin locale is the same on every machine; --no-sync because a crash of the machine in the next seconds
    // costs no more than starting anew.
    await promisify(execFile)(
      initdb,
      [
        `--pgdata=${draft}`,
        `--pwfile=${passwordFile}`,
        '--username=postgres',
        '--auth=scram-sha-256',
        '--encoding=UTF8',
        '--locale-provider=builtin',
        '--builtin-locale=C.UTF-8',
        '--locale=C',
        '--no-sync',
        '--no-instructions',
      ],
      { ...account, env: environment },
    )
    await rename(draft, directory)
  } catch (error) {
    throw new EmbeddedPostgresError(`The embedded database cannot be created in ${directory}: ${reasonOf(error)}`, {
      cause: error,
    })
  } finally {
    await Promise.all([secrets, draft].map((path) => rm(path, { recursive: true, force: true })))
  }
}

function reasonOf(error: unknown): string {
  const failure = error as Error & { stderr?: string }
  return (failure.stderr || failure.message).trim().replaceAll('\n', ' ')
}
