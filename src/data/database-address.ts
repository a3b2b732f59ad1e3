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

/** Notes the database, or other URLs for the one of this name. Answers its id. `catalogue` connects as the platform. */
export async function storeDatabase(catalogue: pg.Pool, cipher: UrlCipher, urls: DatabaseUrls): Promise<string> {
  const name = addressOf(urls.adminUrl)
  const known = await catalogue.query<{ id: string }>('select id from databases where name = $1', [name])
  const id = known.rows[0]?.id ?? newId()
  const sealed = await Promise.all(
    (['appUrl', 'platformUrl', 'adminUrl'] as const).map((url) => cipher.seal(purposeOf(id, columns[url]), urls[url])),
  )
  const { rows } = await catalogue.query<{ id: string }>(
    `insert into databases (id, name, app_url, platform_url, admin_url, key_id) values ($1, $2, $3, $4, $5, $6)
     on conflict (id) do update set app_url = excluded.app_url, platform_url = excluded.platform_url,
       admin_url = excluded.admin_url, key_id = excluded.key_id
     returning id`,
    [id, name, ...sealed.map((bytes) => Buffer.from(bytes)), cipher.keyId],
  )
  return rows[0]?.id ?? id
}

/** Every database that the catalogue knows besides its own, or the one with this id, its URLs readable. */
export async function readDatabases(catalogue: pg.Pool, cipher: UrlCipher, id: string | null = null): Promise<PlacedDatabase[]> {
  const { rows } = await catalogue.query<Row>('select * from databases where $1::uuid is null or id = $1 order by name', [id])
  return Promise.all(
    rows.map(async (row) => {
      const open = (column: 'app_url' | 'platform_url' | 'admin_url') =>
        cipher.open(purposeOf(row.id, column), row.key_id, row[column])
      const [appUrl, platformUrl, adminUrl] = await Promise.all([open('app_url'), open('platform_url'), open('admin_url')])
      return { id: row.id, name: row.name, appUrl, platformUrl, adminUrl }
    }),
  )
}
