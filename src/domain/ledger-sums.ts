import { Prisma } from '../data/generated/client.ts'
import type { TenantId } from './ids.ts'

/** From `from` on, and before `to`. */
export type DateRange = { from: Date; to: Date }

/** The ledger is summed by quarters of an hour, in milliseconds: hours and days of every time zone begin at one. */
export const quarter = 15 * 60_000

/**
 * SQL for what the ledger has between two moments, as rows of `at`, `model`, `agent_id`, `config_version`, `price_id`,
 * `tenant_price_id`, `currency`, `is_correction`, `estimated`, `calls`, the four kinds of tokens and `cost_nanos`. Each is the sum over a
 * quarter of an hour, where that is wholly inside and was summed, or else a row of the ledger. All of one snapshot, so that nothing is
 * missing or counted twice while others sum.
 */
export function ledgerSums(tenantId: TenantId, { from, to }: DateRange): Prisma.Sql {
  const [before, last] = [quarterOf(from), quarterOf(to)]
  const first = before < from ? new Date(before.getTime() + quarter) : from
  // The quarters that the range has a part of.
  const cut = [...(before < from ? [before] : []), ...(last < to ? [last] : [])]
  return Prisma.sql`
    select r.bucket as at, r.model, r.agent_id, r.config_version, r.price_id, r.tenant_price_id, r.currency, r.is_correction, r.estimated,
      r.calls, r.input_tokens, r.cached_input_tokens, r.output_tokens, r.reasoning_tokens, r.cost_nanos
    from usage_rollups r
    where r.tenant_id = ${tenantId}::uuid and r.part > 0
      and r.bucket >= ${first}::timestamptz and r.bucket < ${last}::timestamptz
      and not exists (
        select from usage_rollups m where m.tenant_id = ${tenantId}::uuid and m.bucket = r.bucket and m.part = 0)
    union all
    select u.created_at, u.model, u.agent_id, u.config_version, u.price_id, u.tenant_price_id, u.currency, u.correction > 0, u.estimated,
      (u.correction = 0)::int, u.input_tokens, u.cached_input_tokens, u.output_tokens, u.reasoning_tokens, u.cost_nanos
    from (
      select bucket, bucket + interval '15 minutes' as ends from (
        select m.bucket from usage_rollups m
        where m.tenant_id = ${tenantId}::uuid and m.part = 0 and m.bucket >= ${before}::timestamptz and m.bucket < ${to}::timestamptz
        union
        select unnest(${cut}::timestamptz[])) either
      offset 0) unsummed
    -- Each offset keeps the planner from reading all of the ledger for the few quarters that it takes to be many; and behind a policy
    -- no index is searched by a sum of times, which is not leakproof.
    cross join lateral (
      select * from usage_records u
      where u.tenant_id = ${tenantId}::uuid
        and u.created_at >= greatest(unsummed.bucket, ${from}::timestamptz)
        and u.created_at < least(unsummed.ends, ${to}::timestamptz)
      offset 0) u`
}

/** SQL for the same as rows of the ledger alone, which tell users and conversations apart as well. */
export function ledgerRows(tenantId: TenantId, { from, to }: DateRange): Prisma.Sql {
  return Prisma.sql`
    select u.*, u.created_at as at, u.correction > 0 as is_correction, (u.correction = 0)::int as calls
    from usage_records u
    where u.tenant_id = ${tenantId}::uuid and u.created_at >= ${from}::timestamptz and u.created_at < ${to}::timestamptz`
}

/** The quarter of an hour that the moment is in. */
function quarterOf(at: Date): Date {
  return new Date(Math.floor(at.getTime() / quarter) * quarter)
}
