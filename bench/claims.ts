import { randomBytes } from 'node:crypto'
import pg from 'pg'
import { newId, tenantIdOf } from '../src/domain/ids.ts'
import { claimRun } from '../src/domain/run-claim.ts'
import type { Bench } from './bench.ts'
import { openScopes } from './support/clients.ts'
import { measurementTable } from './support/report.ts'
import { measure } from './support/rounds.ts'
import type { BenchTenant } from './support/seed.ts'
import { pick } from './support/workload.ts'

const callers = 8
const connections = 10

/** Bytes of the system prompts, and what they are there for. */
const prompts = [
  { name: 'no prompt: all that a cache could leave of it', bytes: 0 },
  { name: 'a prompt of 2 KB', bytes: 2_000 },
  { name: 'a prompt of 20 KB', bytes: 20_000 },
  { name: 'a prompt of 100 KB, the longest there can be', bytes: 100_000 },
]

/** What a claim pays for reading the configuration in its own statement: a cache could save no more than that. */
export const claims: Bench = {
  summary: 'claims of runs whose agents have prompts of several lengths',
  byNameOnly: true,
  async run({ database, progress, seconds, rounds }) {
    const { adminUrl, appUrl, tenants } = await database()
    const scopes = openScopes(appUrl, connections, 0)
    const groups = prompts.map((_, group) => tenants.filter((_tenant, index) => index % prompts.length === group))
    try {
      await prepare(adminUrl, groups)
      const contenders = prompts.map(({ name, bytes }, group) => ({
        name,
        operation: () => claimAndReturn(scopes.of, groups[group] ?? [], bytes),
      }))
      const measured = await measure(contenders, {
        ...{ callers, seconds, rounds },
        onRound: (round) => progress(`claims: round ${round} of ${rounds}`),
      })
      return [
        {
          title: 'Claims',
          setup: [
            `A run is claimed, with its configuration, and put back into the queue; ${callers} callers, ${connections} connections.`,
            'The prompts are text that Postgres cannot compress to less than three quarters.',
          ],
          table: measurementTable(measured),
          verdicts: [],
        },
      ]
    } finally {
      await scopes.close()
    }
  },
}

/** Gives each group its prompt, and each conversation a run that waits. */
async function prepare(adminUrl: string, groups: readonly BenchTenant[][]): Promise<void> {
  const admin = new pg.Client({ connectionString: adminUrl })
  await admin.connect()
  try {
    for (const [group, { bytes }] of prompts.entries()) {
      const prompt = randomBytes(Math.ceil(bytes * 0.75))
        .toString('base64')
        .slice(0, bytes)
      const ids = groups[group]?.map(({ tenantId }) => tenantId)
      await admin.query('update agent_configs set system_prompt = $2 where tenant_id = any ($1)', [ids, prompt])
    }
    await admin.query(`insert into runs (id, tenant_id, conversation_id, agent_id, config_version, model)
      select uuidv7(), tenant_id, id, agent_id, 1, 'bench' from conversations`)
    await admin.query('vacuum analyze')
  } finally {
    await admin.end()
  }
}

async function claimAndReturn(of: ReturnType<typeof openScopes>['of'], tenants: BenchTenant[], bytes: number): Promise<void> {
  const tenantId = tenantIdOf(pick(tenants).tenantId)
  const db = of(tenantId)
  const run = (await claimRun(db, tenantId, newId()))?.run
  if (run?.config.systemPrompt.length !== bytes) throw new Error('No run was claimed with its prompt.')
  await db.run.updateMany({ where: { id: run.id, epoch: run.epoch }, data: { status: 'QUEUED', workerId: null } })
}
