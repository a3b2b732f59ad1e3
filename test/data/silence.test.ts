import pg from 'pg'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { SilenceWatch } from '../../src/data/silence.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

const patience = 400

let database: TestDatabase

beforeAll(async () => {
  database = await createTestDatabase({ empty: true })
})

afterAll(() => database.drop())

async function watched(): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: database.appUrl })
  client.on('error', () => undefined)
  await client.connect()
  new SilenceWatch().over(client, patience)
  return client
}

it('gives up a connection that owes an answer, and not before', async () => {
  const client = await watched()
  await client.query('select pg_sleep(0.3)')
  const asked = performance.now()
  await expect(client.query('select pg_sleep(5)')).rejects.toThrow('Connection terminated')
  expect(performance.now() - asked).toBeGreaterThanOrEqual(patience)
})

it('does not blame the server for what held up this process', async () => {
  const client = await watched()
  for (let turn = 0; turn < 3; turn++) {
    const until = performance.now() + 2 * patience
    while (performance.now() < until);
    await client.query('select pg_sleep(0.1)')
  }
  await client.end()
})
