import { setTimeout as delay } from 'node:timers/promises'
import { graphqlClient } from '../support/graphql-client.ts'
import type { Stage } from '../support/stage.ts'
import { selectRows } from '../support/tenant-rows.ts'
import type { Upstream } from './upstream.ts'

/** How long the platform may take to finish every run and enter every call once nothing is asked any more, in milliseconds. */
const longestRest = 60_000

/** How long counters may differ from the ledger: what a dead process held runs out first. In milliseconds. */
const longestHold = 180_000

/** A row of the ledger. */
export type Entry = {
  turn: number
  call: number
  attempt: number
  model: string
  input_tokens: number
  cached_input_tokens: number
  output_tokens: number
  reasoning_tokens: number
  estimated: boolean
  cost_nanos: string
  currency: string
  /** What the price list has for the model. */
  price: { currency: string; input_nanos: string; cached_input_nanos: string; output_nanos: string }
}

/** `epoch` is how often it was claimed. */
export type StoredRun = { status: string; epoch: number; entries: Entry[] }

/** Waits until no run is under way and no call is noted. What still is then, in words. */
export async function comeToRest({ database }: Stage<Upstream>): Promise<string[]> {
  for (const deadline = performance.now() + longestRest; ; await delay(250)) {
    const [row] = await selectRows(
      database,
      `select (select count(*)::int from runs where finished_at is null) as runs,
        (select count(*)::int from model_call_attempts) as calls`,
    )
    const { runs, calls } = row as { runs: number; calls: number }
    if (runs === 0 && calls === 0) return []
    if (performance.now() > deadline) return [`${runs} runs are unfinished, and ${calls} calls are not in the ledger.`]
  }
}

/** What is stored of each run, by its id. */
export async function readRuns({ database }: Stage<Upstream>): Promise<Map<string, StoredRun>> {
  const rows = await selectRows(
    database,
    `select r.id, r.status, r.epoch, (
      select coalesce(json_agg(to_jsonb(u) || jsonb_build_object('cost_nanos', u.cost_nanos::text, 'price', (
        select jsonb_build_object('currency', p.currency, 'input_nanos', p.input_nanos::text,
          'cached_input_nanos', p.cached_input_nanos::text, 'output_nanos', p.output_nanos::text)
        from prices p where p.model = u.model order by p.version desc limit 1)) order by u.attempt, u.turn, u.call), '[]')
      from usage_records u where u.run_id = r.id) as entries
     from runs r`,
  )
  return new Map(rows.map((row) => [String(row['id']), row as unknown as StoredRun]))
}

/** Compares what each tenant is told it has used this month with its ledger. What differs, in words. */
export async function compareCounters({ database, tenants, apis }: Stage<Upstream>): Promise<string[]> {
  const compare = async ({ name, adminKey }: { name: string; adminKey: string }) => {
    const [row] = await selectRows(
      database,
      `select coalesce(sum(input_tokens + output_tokens), 0)::int as tokens
       from usage_records u join tenants t on t.id = u.tenant_id where t.name = '${name}'`,
    )
    const client = graphqlClient(apis[0]?.url ?? '', adminKey)
    const entered = Number(row?.['tokens'])
    for (const deadline = performance.now() + longestHold; ; await delay(1_000)) {
      const { quota } = await client.data<Quota>('{ quota { limits { limit used reserved } } }')
      const month = quota.limits.find(({ limit }) => limit === 'MONTHLY_TOKENS')
      const [used, reserved] = [Number(month?.used), Number(month?.reserved)]
      if (used === entered && reserved === 0) return []
      if (performance.now() > deadline) {
        return [`${name} has ${entered} tokens in its ledger, and is told of ${used}, and of ${reserved} that are held.`]
      }
    }
  }
  return (await Promise.all(tenants.map(compare))).flat()
}

type Quota = { quota: { limits: { limit: string; used: string; reserved: string }[] } }
