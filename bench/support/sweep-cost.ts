import pg from 'pg'
import { costOf } from './process-cost.ts'

/** CPU that Postgres uses for one question of a worker's, in milliseconds. */
export type SweepCost = { name: string; millis: number }

/** Runs of the worker that asks. */
const ofWorker = 100

/** How often each statement is sent: CPU is counted in hundredths of a second. */
const repeats = 50

/**
 * Measures what workers ask (src/data/catalog.ts) while so many runs are under way, a hundred of each worker, all of which live. The runs are
 * rows that are rolled back afterwards.
 */
export async function measureSweep(adminUrl: string, underWay: number): Promise<{ look: SweepCost[]; own: SweepCost[] }> {
  const admin = new pg.Client({ connectionString: adminUrl })
  await admin.connect()
  try {
    const { rows } = await admin.query<{ pid: number }>('select pg_backend_pid() as pid')
    const backend = rows[0]?.pid ?? 0
    await admin.query('begin')
    await admin.query(
      `create temporary table added on commit drop as
         select c.*, uuidv7() as run, c.version as config_version, row_number() over () / ${ofWorker} as worker
         from (select c.id, c.tenant_id, c.agent_id, c.user_id, a.active_version as version
               from conversations c join agents a on a.tenant_id = c.tenant_id and a.id = c.agent_id) c,
           generate_series(1, 1 + $1 / (select count(*) from conversations)) limit $1`,
      [underWay],
    )
    await admin.query(`
      create temporary table workers_of on commit drop as
        select worker, uuidv7() as id from (select distinct worker from added) each;
      insert into workers (id) select id from workers_of;
      insert into runs (id, tenant_id, conversation_id, agent_id, user_id, status, epoch, worker_id, config_version, model, started_at)
        select run, tenant_id, added.id, agent_id, user_id, 'RUNNING', 1, w.id, config_version, 'bench', now()
        from added join workers_of w using (worker);
      insert into model_call_attempts (tenant_id, run_id, turn, call, attempt, conversation_id, agent_id, config_version, model,
          input_tokens, output_bound, created_at)
        select tenant_id, run, 0, 0, 1, id, agent_id, config_version, 'bench', 1, 1, now() - interval '1 minute' from added;
      analyze runs; analyze model_call_attempts;`)
    const measure = async (statements: Readonly<Record<string, string>>) => {
      const costs: SweepCost[] = []
      for (const [name, statement] of Object.entries(statements)) {
        const before = await costOf([backend])
        for (let round = 0; round < repeats; round++) await admin.query(statement)
        costs.push({ name, millis: ((await costOf([backend])).cpuMillis - before.cpuMillis) / repeats })
      }
      return costs
    }
    const own = await admin.query<{ worker: string; tenants: string[]; runs: string[] }>(
      `select worker_id as worker, array_agg(tenant_id) as tenants, array_agg(id) as runs from runs
       where worker_id in (select id from workers_of where worker = 1) group by worker_id`,
    )
    const [{ worker, tenants, runs } = { worker: '', tenants: [], runs: [] }] = own.rows
    return { look: await measure(look), own: await measure(questionsOf(worker, tenants, runs)) }
  } finally {
    await admin.query('rollback')
    await admin.end()
  }
}

const unfenced = 'exists (select from tenants where tenants.id = r.tenant_id and fenced_at is null)'

const look: Readonly<Record<string, string>> = {
  'whose runs are they': `select distinct worker_id from runs r where status = 'RUNNING' and ${unfenced}`,
  'calls that nobody makes any more': `select distinct tenant_id, run_id from model_call_attempts r
     where created_at < now() - interval '10 seconds' and ${unfenced}
       and not exists (select from runs where runs.tenant_id = r.tenant_id and runs.id = r.run_id
         and status in ('QUEUED', 'RUNNING', 'WAITING_APPROVAL', 'PAUSED_BUDGET'))
     limit 1000`,
  'runs that wait for too long': `select distinct tenant_id from runs r
     where status = 'QUEUED' and ${unfenced} and queued_at < now() - interval '2 seconds' limit 1000`,
}

function questionsOf(worker: string, tenants: string[], runs: string[]): Readonly<Record<string, string>> {
  return {
    [`what became of its ${runs.length} runs`]: `select r.id, epoch, status = 'RUNNING', cancel_requested_at is not null
      from unnest('{${tenants}}'::uuid[], '{${runs}}'::uuid[]) as wanted (tenant_id, id) join runs r using (tenant_id, id)`,
    'which runs are its own': `select tenant_id, id, epoch from runs r
      where status = 'RUNNING' and ${unfenced} and worker_id = any('{${worker}}'::uuid[]) order by queued_at limit 1000`,
  }
}
