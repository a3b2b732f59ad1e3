import pg from 'pg'
import { tenantIdOf } from '../src/domain/ids.ts'
import { composeInvoice } from '../src/domain/invoice.ts'
import type { Scope } from '../src/domain/scope.ts'
import { reportUsage, type UsageDimension } from '../src/domain/usage-report.ts'
import { sumQuarter } from '../src/domain/usage-rollup.ts'
import type { Bench } from './bench.ts'
import { openScopes } from './support/clients.ts'
import { median } from './support/rounds.ts'

const records = 10_000_000
const month = '2026-03'
const range = { from: new Date('2026-03-01T00:00:00Z'), to: new Date('2026-04-01T00:00:00Z') }
const batch = 500_000

/** What a report of a month may take, in milliseconds. */
const mostMillis = 100

/** A month of one tenant's ledger, read by way of its sums, and row by row. */
export const reports: Bench = {
  summary: 'usage reports and an invoice of a month of 10 million records',
  byNameOnly: true,
  async run({ progress, rounds, database }) {
    const { adminUrl, appUrl, tenants } = await database()
    const [tenant] = tenants
    if (!tenant) throw new Error('There is no tenant.')
    const tenantId = tenantIdOf(tenant.tenantId)
    await fill(adminUrl, tenantId, progress)
    const scopes = openScopes(appUrl, 2, 0)
    try {
      const db = scopes.of(tenantId)
      const seconds = await sum(adminUrl, db, tenantId, progress)
      const scope = { db, tenant: { id: tenantId }, actor: { role: 'ADMIN' } } as unknown as Scope
      const report = (groupBy: UsageDimension[]) => async () =>
        (await reportUsage({ kind: 'tenant', scope, expiresAt: null }, { range, groupBy })).rows.length
      const reads: { name: string; times: number; read: () => Promise<number>; isBound: boolean }[] = [
        { name: 'usage by day', times: rounds, read: report(['DAY']), isBound: true },
        { name: 'usage by hour', times: rounds, read: report(['HOUR']), isBound: true },
        { name: 'usage by day and model', times: rounds, read: report(['DAY', 'MODEL']), isBound: true },
        { name: 'usage by configuration', times: rounds, read: report(['CONFIG_VERSION']), isBound: true },
        {
          ...{ name: 'the invoice', times: rounds, isBound: true },
          read: async () => (await composeInvoice({ db, tenantId, now: Date.now() }, month)).lines.length,
        },
        { name: 'usage by end user, from the ledger', times: 3, read: report(['USER']), isBound: false },
        { name: 'the ledger itself by day, in plain SQL', times: 3, read: byHand(adminUrl, tenantId), isBound: false },
      ]
      const measured = []
      for (const { name, times, read, isBound } of reads) {
        progress(`reports: ${name}`)
        const rows = await read()
        const millis: number[] = []
        for (let round = 0; round < times; round++) {
          const startedAt = performance.now()
          await read()
          millis.push(performance.now() - startedAt)
        }
        measured.push({ name, rows, millis, isBound })
      }
      return [
        {
          title: 'Reports of a month',
          setup: [
            `One tenant with ${records.toLocaleString('en')} model calls in ${month}, of 3 models, 6 configurations and 5,000 end users; its sums were made in ${seconds.toFixed(0)} s.`,
            'One caller; each was asked for once before.',
          ],
          table: {
            columns: ['', 'rows', 'p50 ms', 'max ms'],
            rows: measured.map(({ name, rows, millis }) => [
              ...[name, rows.toLocaleString('en'), median(millis).toFixed(1), Math.max(...millis).toFixed(1)],
            ]),
          },
          verdicts: measured
            .filter(({ isBound }) => isBound)
            .map(({ name, millis }) => ({
              ...{ row: 14, goal: `${name} of a month ≤ ${mostMillis} ms`, measured: `${median(millis).toFixed(1)} ms` },
              met: median(millis) <= mostMillis,
            })),
        },
      ]
    } finally {
      await scopes.close()
    }
  },
}

/** The month's ledger, with the indexes that reports read and no others: the rest is of no use here and takes most of the time. */
async function fill(adminUrl: string, tenantId: string, progress: (message: string) => void): Promise<void> {
  const admin = new pg.Client({ connectionString: adminUrl })
  await admin.connect()
  const { rows } = await admin.query<{ name: string }>(
    `select indexrelid::regclass::text as name from pg_index where indrelid = 'usage_records'::regclass and not indisprimary
     and indexrelid::regclass::text not like '%created_at%'`,
  )
  await admin.query('alter table usage_records drop constraint usage_records_tenant_id_corrects_id_fkey')
  for (const { name } of rows) await admin.query(`drop index ${name}`)
  // Neither foreign keys nor marks row by row.
  await admin.query(`set session_replication_role = replica; set synchronous_commit = off`)
  for (let first = 0; first < records; first += batch) {
    progress(`reports: ${first.toLocaleString('en')} of ${records.toLocaleString('en')} records`)
    await admin.query(
      `insert into usage_records (id, tenant_id, conversation_id, run_id, user_pseudonym, agent_id, config_version, turn, call, attempt,
         model, input_tokens, cached_input_tokens, output_tokens, reasoning_tokens, estimated, cost_nanos, currency, price_id, created_at)
       select gen_random_uuid(), $1, md5((n / 8)::text)::uuid, md5(n::text)::uuid, md5((n % 5000)::text)::uuid, md5((n % 2)::text)::uuid,
         n % 3, 0, 0, 1, 'model-' || n % 3, 800 + n % 400, n % 300, 200 + n % 300, 0, n % 50 = 0, 1000 * (n % 1000), 'USD',
         md5((n % 3)::text)::uuid, $2::timestamptz + n * ($3::timestamptz - $2::timestamptz) / $4
       from generate_series($5::bigint, $6::bigint) n`,
      [tenantId, range.from, range.to, records, first, Math.min(first + batch, records) - 1],
    )
  }
  await admin.query(
    `insert into user_pseudonyms (id, tenant_id, user_id) select md5(n::text)::uuid, $1, 'user-' || n from generate_series(0, 4999) n`,
    [tenantId],
  )
  progress('reports: statistics')
  await admin.query('vacuum analyze usage_records')
  await admin.end()
}

/** Sums the ledger as the platform does. Answers the seconds that it took. */
async function sum(
  adminUrl: string,
  db: Parameters<typeof sumQuarter>[0],
  tenantId: ReturnType<typeof tenantIdOf>,
  progress: (message: string) => void,
): Promise<number> {
  const admin = new pg.Client({ connectionString: adminUrl })
  await admin.connect()
  const { rows } = await admin.query<{ bucket: Date }>(
    `insert into usage_rollups (tenant_id, bucket, part)
     select $1, n, 0 from generate_series($2::timestamptz, $3::timestamptz - interval '15 minutes', interval '15 minutes') n
     returning bucket`,
    [tenantId, range.from, range.to],
  )
  const startedAt = performance.now()
  for (const [index, { bucket }] of rows.entries()) {
    if (index % 300 === 0) progress(`reports: ${index} of ${rows.length} quarters summed`)
    await sumQuarter(db, tenantId, bucket)
  }
  const seconds = (performance.now() - startedAt) / 1_000
  await admin.query('vacuum analyze usage_rollups')
  await admin.end()
  return seconds
}

function byHand(adminUrl: string, tenantId: string) {
  return async () => {
    const admin = new pg.Client({ connectionString: adminUrl })
    await admin.connect()
    const { rowCount } = await admin.query(
      `select date_trunc('day', created_at), count(*), sum(input_tokens), sum(output_tokens), sum(cost_nanos) from usage_records
       where tenant_id = $1 and created_at >= $2 and created_at < $3 group by 1`,
      [tenantId, range.from, range.to],
    )
    await admin.end()
    return rowCount ?? 0
  }
}
