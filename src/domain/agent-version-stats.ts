import { agentIdOf } from './agent.ts'
import { checkRange } from './ledger.ts'
import type { DateRange } from './ledger-sums.ts'
import { defaultCurrency } from './pricing.ts'
import { requireRole, type Scope } from './scope.ts'
import { reportUsage } from './usage-report.ts'

export type AgentVersionStatsQuery = {
  /** Default: the default agent. */
  agentId?: string | null
  range: DateRange
}

/** What one version of an agent's configuration did in a span of time. `costNanos` is in nano-units (10⁻⁹) of the currency. */
export type AgentVersionStats = {
  version: number
  /** Runs that were asked for in it. Those of conversations that were deleted since are not counted. */
  runs: number
  /** Those of them that have ended, and that have ended as FAILED. */
  endedRuns: number
  failedRuns: number
  /** Model calls that ended in it, whosever runs they were of. */
  calls: bigint
  inputTokens: bigint
  outputTokens: bigint
  costNanos: bigint
  currency: string
}

type RunCounts = Pick<AgentVersionStats, 'version' | 'runs' | 'endedRuns' | 'failedRuns'>

/**
 * What each version of an agent did, newest first, to compare a canary by: errors from the runs, cost from the ledger. Versions that did
 * nothing are left out. Throws NotFound, and a ValidationProblem as `reportUsage` does. For members.
 */
export async function agentVersionStats(scope: Scope, query: AgentVersionStatsQuery): Promise<AgentVersionStats[]> {
  requireRole(scope, 'MEMBER')
  const { range } = query
  checkRange(range, ['range', 'to'])
  const agentId = await agentIdOf(scope, query.agentId)
  const usage = await reportUsage({ kind: 'tenant', scope, expiresAt: null }, { range, groupBy: ['CONFIG_VERSION'] })
  const spent = new Map(usage.rows.flatMap((row) => (row.agentId === agentId ? [[row.configVersion ?? 0, row] as const] : [])))
  const counted = new Map((await countRuns(scope, agentId, range)).map((row) => [row.version, row]))
  return [...new Set([...counted.keys(), ...spent.keys()])]
    .sort((a, b) => b - a)
    .map((version) => {
      const { runs, endedRuns, failedRuns } = counted.get(version) ?? { runs: 0, endedRuns: 0, failedRuns: 0 }
      const { calls, inputTokens, outputTokens, costNanos, currency } = spent.get(version) ?? nothing
      return { version, runs, endedRuns, failedRuns, calls, inputTokens, outputTokens, costNanos, currency }
    })
}

const nothing = { calls: 0n, inputTokens: 0n, outputTokens: 0n, costNanos: 0n, currency: defaultCurrency }

/** Version by version, so that each is a range of the index. */
function countRuns({ db, tenant }: Scope, agentId: string, { from, to }: DateRange): Promise<RunCounts[]> {
  return db.$queryRaw<RunCounts[]>`
    select v.version, r.runs, r.ended as "endedRuns", r.failed as "failedRuns"
    from agent_configs v cross join lateral (
      select count(*)::int as runs, count(r.finished_at)::int as ended, (count(*) filter (where r.status = 'FAILED'))::int as failed
      from runs r
      where r.tenant_id = ${tenant.id}::uuid and r.agent_id = ${agentId}::uuid and r.config_version = v.version
        and r.created_at >= ${from}::timestamptz and r.created_at < ${to}::timestamptz) r
    where v.tenant_id = ${tenant.id}::uuid and v.agent_id = ${agentId}::uuid and r.runs > 0`
}
