import pg from 'pg'

/** The same server, another database, and perhaps another login. */
export function withDatabase(url: string, database: string, login?: { user: string; password: string }): string {
  const result = new URL(url)
  result.pathname = `/${database}`
  if (login) {
    result.username = encodeURIComponent(login.user)
    result.password = encodeURIComponent(login.password)
  }
  return result.href
}

/** Runs one statement on a connection of its own. */
export async function adminQuery(url: string, statement: string): Promise<void> {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    await client.query(statement)
  } finally {
    await client.end()
  }
}
