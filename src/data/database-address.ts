import type pg from 'pg'
import { newId } from '../domain/ids.ts'

/** How the three roles connect to a database that some tenants have to themselves. */
export type DatabaseUrls = { appUrl: string; platformUrl: string; adminUrl: string }

/** A database other than the catalogue's own. `name` is its host, port and name, without credentials. */
export type PlacedDatabase = { id: string; name: string } & DatabaseUrls

/** What keeps the URLs unreadable where they are stored: the platform's cipher. */
export type UrlCipher = {
  keyId: string
  seal(purpose: string, text: string): Promise<Uint8Array<ArrayBuffer>>
  open(purpose: string, keyId: string, sealed: Uint8Array): Promise<string>
}

/** Host, port and name of the database that an URL leads to, which tell one database from another. */
export function addressOf(url: string): string {
  const { hostname, port, pathname } = new URL(url)
  return `${hostname}:${port || '5432'}${pathname}`
}

/** The URLs of the database that `adminUrl` leads to, with the users and passwords that the catalogue's own database has. */
export function urlsBeside(adminUrl: string, catalogue: Pick<DatabaseUrls, 'appUrl' | 'platformUrl'>): DatabaseUrls {
  return { adminUrl, appUrl: withLogin(adminUrl, catalogue.appUrl), platformUrl: withLogin(adminUrl, catalogue.platformUrl) }
}

function withLogin(url: string, login: string): string {
  const result = new URL(url)
  const { username, password } = new URL(login)
  result.username = username
  result.password = password
  return result.href
}

type Row = {
  id: string
  name: string
  app_url: Uint8Array
  platform_url: Uint8Array
  admin_url: Uint8Array
  key_id: string
}

const columns = { appUrl: 'app_url', platformUrl: 'platform_url', adminUrl: 'admin_url' } as const

/** What an URL is sealed for: its database and its column, so that none can be put in another's place. */
function purposeOf(databaseId: string, column: string): string {
  return `databases/${databaseId}/${column}`
}

/** The URLs as they are stored, in the order of their columns. */
async function seal(cipher: UrlCipher, id: string, urls: DatabaseUrls): Promise<Buffer[]> {
  const sealed = (['appUrl', 'platformUrl', 'adminUrl'] as const).map((url) =>
    cipher.seal(purposeOf(id, columns[url]), urls[url]),
  )
  return (await Promise.all(sealed)).map((bytes) => Buffer.from(bytes))
}

async function unseal(cipher: UrlCipher, row: Row): Promise<PlacedDatabase> {
  const open = (column: 'app_url' | 'platform_url' | 'admin_url') =>
    cipher.open(purposeOf(row.id, column), row.key_id, row[column])
  const [appUrl, platformUrl, adminUrl] = await Promise.all([open('app_url'), open('platform_url'), open('admin_url')])
  return { id: row.id, name: row.name, appUrl, platformUrl, adminUrl }
}

/** Notes the database, or other URLs for the one of this name. Answers its id. `catalogue` connects as the platform. */
export async function storeDatabase(catalogue: pg.Pool, cipher: UrlCipher, urls: DatabaseUrls): Promise<string> {
  const name = addressOf(urls.adminUrl)
  const known = await catalogue.query<{ id: string }>('select id from databases where name = $1', [name])
  const id = known.rows[0]?.id ?? newId()
  const { rows } = await catalogue.query<{ id: string }>(
    `insert into databases (id, name, app_url, platform_url, admin_url, key_id) values ($1, $2, $3, $4, $5, $6)
     on conflict (id) do update set app_url = excluded.app_url, platform_url = excluded.platform_url,
       admin_url = excluded.admin_url, key_id = excluded.key_id
     returning id`,
    [id, name, ...(await seal(cipher, id, urls)), cipher.keyId],
  )
  return rows[0]?.id ?? id
}

/** Every database that the catalogue knows besides its own, or the one with this id, its URLs readable. */
export async function readDatabases(catalogue: pg.Pool, cipher: UrlCipher, id: string | null = null): Promise<PlacedDatabase[]> {
  const { rows } = await catalogue.query<Row>('select * from databases where $1::uuid is null or id = $1 order by name', [id])
  return Promise.all(rows.map((row) => unseal(cipher, row)))
}

/** How many databases have URLs that another key than the cipher's seals. */
export async function countStaleDatabases(catalogue: pg.Pool, { keyId }: UrlCipher): Promise<number> {
  const { rows } = await catalogue.query<{ count: number }>('select count(*)::int as count from databases where key_id <> $1', [
    keyId,
  ])
  return rows[0]?.count ?? 0
}

/** Seals the URLs of those databases under the cipher's key. One that is stored anew meanwhile is left as it is then. Answers how many it sealed. */
export async function resealDatabases(catalogue: pg.Pool, cipher: UrlCipher): Promise<number> {
  const { rows } = await catalogue.query<Row>('select * from databases where key_id <> $1 order by name', [cipher.keyId])
  let sealed = 0
  for (const row of rows) {
    const { rowCount } = await catalogue.query(
      `update databases set app_url = $2, platform_url = $3, admin_url = $4, key_id = $5
       where id = $1 and key_id = $6 and app_url = $7 and platform_url = $8 and admin_url = $9`,
      [
        ...[row.id, ...(await seal(cipher, row.id, await unseal(cipher, row))), cipher.keyId, row.key_id],
        ...[row.app_url, row.platform_url, row.admin_url],
      ],
    )
    sealed += rowCount ?? 0
  }
  return sealed
}
