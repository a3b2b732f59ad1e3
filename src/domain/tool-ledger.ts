import type { Run, ToolCall as ToolCallRow } from '../data/generated/client.ts'
import type { ToolCallWhereInput } from '../data/generated/models.ts'
import type { TenantDb, TenantTransaction } from '../data/tenant-scope.ts'
import { persist } from './persistence.ts'
import { handOver } from './run-handover.ts'
import type { Turn } from './run-turn.ts'

/** A tool call of a turn that is not over, as the ledger has it. */
export type LedgerCall = Omit<ToolCallRow, 'tenantId' | 'runId' | 'userId' | 'epoch' | 'decidedBy' | 'reason' | 'createdAt'>

/** What a call under way has come to. */
export type ToolCallChange = Pick<LedgerCall, 'id' | 'status' | 'result' | 'expiresAt' | 'finishedAt'>

type Claim = Pick<Run, 'tenantId' | 'id' | 'epoch'>

/** Calls that wait for a person to decide. By what an index answers: not by `status`, whose equality is not leakproof. */
export const undecided = { finishedAt: null, expiresAt: { not: null }, decidedAt: null } satisfies ToolCallWhereInput

export function isUndecided({ finishedAt, expiresAt, decidedAt }: Pick<LedgerCall, 'finishedAt' | 'expiresAt' | 'decidedAt'>) {
  return finishedAt === null && expiresAt !== null && decidedAt === null
}

/**
 * Stores a claimed run's turns, with the calls that the last of them asks for: none is made before. Repeating it changes nothing. False,
 * and nothing is stored, when the run is no longer that claim's.
 */
export async function storeTurns(
  tx: TenantTransaction,
  run: Claim,
  turns: Turn[],
  calls: LedgerCall[],
  now: number,
): Promise<boolean> {
  const stored = await tx.$queryRaw<unknown[]>`
    with mine as (
      update runs set turns = ${JSON.stringify(turns)}::jsonb
      where tenant_id = ${run.tenantId}::uuid and id = ${run.id}::uuid and epoch = ${run.epoch}::int and status = 'RUNNING'
      returning tenant_id, id, user_id),
    intended as (
      insert into tool_calls (tenant_id, id, run_id, user_id, turn, place, call_id, name, arguments, arguments_hash, status, result,
        expires_at, created_at, finished_at)
      select mine.tenant_id, c.id, mine.id, mine.user_id, c.turn, c.place, c."callId", c.name, c.arguments, c."argumentsHash",
        c.status::tool_call_status, c.result, c."expiresAt", ${new Date(now)}::timestamptz, c."finishedAt"
      from mine, jsonb_to_recordset(${JSON.stringify(calls)}::jsonb) as c(id uuid, turn int, place int, "callId" text, name text,
        arguments text, "argumentsHash" text, status text, result text, "expiresAt" timestamptz, "finishedAt" timestamptz)
      on conflict do nothing)
    select id from mine`
  return stored.length === 1
}

/** The calls of one turn, in the order in which the model asked for them. */
export function readToolCalls(db: TenantTransaction, runId: string, turn: number): Promise<ToolCallRow[]> {
  return db.toolCall.findMany({ where: { runId, turn }, orderBy: { place: 'asc' } })
}

/**
 * Notes right before it that the claim makes these calls: from now on each may have been made. False when one of them is no longer to
 * be made, or not by this claim; then none must be. Of all claims that try, one succeeds.
 */
export async function startToolCalls(db: TenantDb, run: Claim, ids: readonly string[], now: number): Promise<boolean> {
  const started = await persist(
    () => db.$executeRaw`
      update tool_calls set status = 'STARTED', epoch = ${run.epoch}::int, started_at = ${new Date(now)}::timestamptz
      where tenant_id = ${run.tenantId}::uuid and id = any (${[...ids]}::uuid[])
        and (status in ('INTENDED', 'APPROVED') or (status = 'STARTED' and epoch = ${run.epoch}::int))
        and exists (select from runs where tenant_id = ${run.tenantId}::uuid and id = ${run.id}::uuid
          and epoch = ${run.epoch}::int and status = 'RUNNING')`,
  )
  return started === ids.length
}

/** Notes at once what a call came to that the claim made, when more is to come before its turn is over. */
export async function finishToolCall(
  db: TenantDb,
  run: Claim,
  { id, status, result, finishedAt }: ToolCallChange,
): Promise<void> {
  const own = { id, epoch: run.epoch, status: 'STARTED' as const }
  await persist(() => db.toolCall.updateMany({ where: own, data: { status, result, finishedAt } }))
}

/**
 * Stores a turn whose calls are over, and what they came to, and hands the run over to another agent where one is given. False, and nothing
 * is stored, when the run is no longer that claim's.
 */
export async function closeTurn(
  db: TenantDb,
  run: Claim & Pick<Run, 'conversationId'>,
  turns: Turn[],
  changes: readonly ToolCallChange[],
  handOverTo: string | null,
): Promise<boolean> {
  if (handOverTo !== null) {
    return persist(() =>
      db.$transaction(async (tx) => {
        const isOurs = await handOver(tx, run, turns, handOverTo)
        if (isOurs) await changeToolCalls(tx, run, changes)
        return isOurs
      }),
    )
  }
  const closed = await persist(
    () => db.$queryRaw<unknown[]>`
      with mine as (
        update runs set turns = ${JSON.stringify(turns)}::jsonb
        where tenant_id = ${run.tenantId}::uuid and id = ${run.id}::uuid and epoch = ${run.epoch}::int and status = 'RUNNING'
        returning tenant_id, id),
      changed as (
        update tool_calls set status = c.status::tool_call_status, result = c.result, finished_at = c."finishedAt"
        from mine, jsonb_to_recordset(${JSON.stringify(changes)}::jsonb)
          as c(id uuid, status text, result text, "finishedAt" timestamptz)
        where tool_calls.tenant_id = mine.tenant_id and tool_calls.id = c.id)
      select id from mine`,
  )
  return closed.length === 1
}

/** Of a run that the transaction has locked: what its calls came to, or that a person is asked anew. */
export async function changeToolCalls(tx: TenantTransaction, run: Claim, changes: readonly ToolCallChange[]): Promise<void> {
  await tx.$executeRaw`
    update tool_calls set status = c.status::tool_call_status, result = c.result, expires_at = c."expiresAt",
      finished_at = c."finishedAt", decided_at = case when c.status = 'AMBIGUOUS' then null else decided_at end,
      decided_by = case when c.status = 'AMBIGUOUS' then null else decided_by end,
      reason = case when c.status = 'AMBIGUOUS' then null else reason end
    from jsonb_to_recordset(${JSON.stringify(changes)}::jsonb)
      as c(id uuid, status text, result text, "expiresAt" timestamptz, "finishedAt" timestamptz)
    where tool_calls.tenant_id = ${run.tenantId}::uuid and tool_calls.id = c.id`
}
