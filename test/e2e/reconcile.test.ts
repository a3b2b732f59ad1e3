import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { newId } from '../../src/domain/ids.ts'
import { startPlatformProcess } from '../support/platform-process.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'
import { makeScratchDirectory } from '../support/scratch.ts'
import { asAdmin } from '../support/tenant-rows.ts'

let database: TestDatabase
let directory: string

beforeAll(async () => {
  ;[database, directory] = await Promise.all([createTestDatabase(), makeScratchDirectory('bulkhead-e2e-')])
  const [tenant, other] = [newId(), newId()]
  await asAdmin(database, async (admin) => {
    for (const id of [tenant, other]) {
      await admin.query("insert into tenants (id, name, plan) values ($1, $2, 'FREE')", [id, id])
      await admin.query(
        `insert into usage_records (id, tenant_id, conversation_id, run_id, agent_id, config_version, turn, call, attempt, model, input_tokens,
           cached_input_tokens, output_tokens, reasoning_tokens, estimated, cost_nanos, currency, created_at)
         select gen_random_uuid(), $1, gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 1, 0, 0, 1, 'gpt-4o', 100, 40, 50, 0, false, 1,
           'USD', '2026-03-01'::timestamptz + n * interval '1 day' from generate_series(0, 30) n`,
        [id],
      )
    }
  })
}, 60_000)

afterAll(async () => {
  await database.drop()
  await rm(directory, { recursive: true, force: true })
})

async function reconcile(content: string, ...args: string[]) {
  const file = join(directory, 'usage')
  await writeFile(file, content)
  const env = { DATABASE_URL: database.appUrl, DATABASE_PLATFORM_URL: database.platformUrl, BULKHEAD_DATA_DIR: directory }
  const command = startPlatformProcess(env, ['reconcile', file, ...args])
  const code = await command.exited
  return { code, output: command.output(), errors: command.errors() }
}

const header = 'date,model,input_tokens,cached_input_tokens,output_tokens,requests\n'

describe('bulkhead reconcile', { timeout: 60_000 }, () => {
  it('prints what differs of each model, and fails beyond the tolerance', async () => {
    const file = `${header}2026-03-01,gpt-4o-2024-08-06,3000,1240,1550,31\n2026-03-02,gpt-4o-2024-08-06,3262,1240,1550,32\n`
    expect(await reconcile(file, '--month', '2026-03')).toEqual({
      code: 0,
      errors: '',
      output: `2026-03-01T00:00:00.000Z to 2026-04-01T00:00:00.000Z, 2 tenants

model                   ours  theirs  difference     %
gpt-4o  requests          62      63          -1  1.59
        input tokens    6200    6262         -62  0.99
        of them cached  2480    2480           0  0.00
        output tokens   3100    3100           0  0.00

All within 1 %.
`,
    })
    const strict = await reconcile(file, '--month', '2026-03', '--tolerance', '0.5')
    expect([strict.code, strict.output]).toEqual([1, expect.stringMatching(/^More than 0.5 % apart: gpt-4o\.$/m)])
    // Two days of the month alone.
    const short = await reconcile(file)
    expect([short.code, short.output]).toEqual([1, expect.stringMatching(/^2026-03-01T00:00:00.000Z to 2026-03-03T/)])
    expect(short.output).toMatch(/ input tokens +400 +6262 +-5862 +93.61$/m)
  })

  it('reads what the Usage API answers', async () => {
    const result = { model: 'gpt-4o', input_tokens: 200, output_tokens: 100, input_cached_tokens: 80, num_model_requests: 2 }
    const start = Date.UTC(2026, 2, 1) / 1_000
    const page = { object: 'page', data: [{ object: 'bucket', start_time: start, end_time: start + 86_400, results: [result] }] }
    expect(await reconcile(JSON.stringify({ ...page, has_more: false }), '--provider', 'openai')).toMatchObject({
      code: 0,
      output: expect.stringContaining('gpt-4o  requests           2       2           0  0.00'),
    })
  })

  it('ends in one line when it cannot do what it is told', async () => {
    const refused = async (...args: Parameters<typeof reconcile>) => {
      const { code, output, errors } = await reconcile(...args)
      expect([code, output]).toEqual([1, ''])
      return errors
    }
    expect(await refused(header, '--month', '2026-13')).toBe('bulkhead: --month must be a month, as in 2026-11.\n')
    expect(await refused(header, '--tolerance', 'much')).toBe('bulkhead: --tolerance must be a number of percent from 0.\n')
    expect(await refused(header, '--provider', 'acme')).toContain('--provider must be openai.')
    expect(await refused('{}')).toContain("not of OpenAI's Usage API")
  })
})
