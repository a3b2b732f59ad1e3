import type { UsageRecord } from '../data/generated/client.ts'
import type { TenantTransaction } from '../data/tenant-scope.ts'
import { auditRow } from './audit.ts'
import type { OperatorScope } from './authenticate.ts'
import { NotFound, ValidationProblem } from './errors.ts'
import { idempotent } from './idempotency.ts'
import { isUuid, newId, type TenantId } from './ids.ts'
import { costNanos, type TokenPrice, termsOf } from './pricing.ts'
import { residentOf } from './quota.ts'
import { cleanText } from './text.ts'
import { entryNow, usageMessages } from './usage-feed.ts'
import type { UsageTotal } from './usage-report.ts'

const figureNames = ['inputTokens', 'cachedInputTokens', 'outputTokens', 'reasoningTokens'] as const

/** A hundred times what any model takes. Beyond it a number is a typing error. */
const mostTokens = 100_000_000

/** The tokens of a model call. */
type Figures = Record<(typeof figureNames)[number], number>

export type CorrectUsageInput = {
  tenantId: string
  /** The row of the call, not of a correction. */
  usageRecordId: string
  /** Why. It is in the tenant's audit log. */
  reason: string
  idempotencyKey?: string | null
} & {
  /** What is right; what is not said stays as it is. */
  [figure in keyof Figures]?: number | null
}

/** `correction` is the row that was entered, null when the call was right already; `total` is what the call comes to. */
export type CorrectedUsage = { correction: UsageRecord | null; total: UsageTotal }

/**
 * Makes a call of the ledger come to what it should, by a row that holds the difference to the call and its corrections so far, at the
 * price of the call. It is of now: what was summed and charged for earlier months stays as it was, and the difference counts in the
 * month under way, for the tenant's budget, too. A call that is right already is left alone. Throws NotFound for a tenant or a call that is
 * not there, and a ValidationProblem for figures that cannot be, for a row that is a correction itself, and for the reason; and
 * Unavailable when the correction is made and the counters cannot be told: repeating it tells them. For operators.
 */
export async function correctUsage(
  scope: OperatorScope,
  { idempotencyKey, ...input }: CorrectUsageInput,
): Promise<CorrectedUsage> {
  const { id: tenantId } = (await residentOf(scope, input.tenantId)).owner.tenant
  const reason = cleanText('reason', input.reason, { max: 1_000 })
  const { usageRecordId: callId } = input
  if (!isUuid(callId)) throw new NotFound('usage record')
  const db = scope.data.of({ tenantId, userId: null })
  const caller = { actor: scope.operator, tenant: { id: tenantId }, db, ports: scope.ports }
  const corrected = await idempotent<CorrectedUsage>(
    caller,
    { mutation: 'correctUsage', key: idempotencyKey, input },
    {
      perform: (remember) =>
        db.$transaction(async (tx) => {
          const id = newId()
          await remember(tx, id)
          return enterCorrection(scope, tx, { id, tenantId, callId, reason, wanted: input })
        }),
      // Nothing has this id when the call was right already.
      replay: async (id) => answerOf(await rowsOf(db, callId), id),
    },
  )
  // Also when nothing was entered: whoever entered it may have come no further than that.
  await scope.ports.admission.doubt(tenantId)
  return corrected
}

type NewCorrection = {
  id: string
  tenantId: TenantId
  callId: string
  reason: string
  wanted: Pick<CorrectUsageInput, keyof Figures>
}

async function enterCorrection(
  { operator, ports }: OperatorScope,
  tx: TenantTransaction,
  { id, tenantId, callId, reason, wanted }: NewCorrection,
): Promise<CorrectedUsage> {
  // The role may not lock rows of the ledger. Of two corrections of one call the second sees the first.
  await tx.$executeRaw`select pg_advisory_xact_lock(hashtextextended(${`correction of ${tenantId}/${callId}`}, 0))`
  const rows = await rowsOf(tx, callId)
  const call = rows.find((row) => row.id === callId)
  if (!call) throw new NotFound('usage record')
  if (call.correction > 0)
    throw new ValidationProblem(
      ['usageRecordId'],
      'This is a correction. Name the call that it corrects, and what that should come to.',
    )
  const [from, to] = [figuresOf(rows), rightFigures(rows, wanted)]
  if (figureNames.every((name) => to[name] === from[name])) return answerOf(rows, id)

  const now = ports.now()
  const { runId, turn, call: number, attempt } = call
  const correction: UsageRecord = {
    ...call,
    ...{
      id,
      runId,
      turn,
      call: number,
      attempt,
      correction: Math.max(...rows.map((row) => row.correction)) + 1,
      correctsId: callId,
    },
    ...Object.fromEntries(figureNames.map((name) => [name, to[name] - from[name]])),
    costNanos: costNanos(to, await priceOf(tx, call)) - sumOf(rows, ({ costNanos: nanos }) => nanos),
    ...{ estimated: false, createdAt: new Date(now) },
  }
  await tx.usageRecord.createMany({ data: correction })
  await tx.$queryRaw`
    with entered as (select * from usage_records where tenant_id = ${tenantId}::uuid and id = ${id}::uuid),
    ${usageMessages(tenantId, entryNow(ports))}
    select 1`
  const details = { reason, from, to, costNanos: String(correction.costNanos) }
  const entry = { action: 'correctUsage', subject: 'UsageRecord' as const, subjectId: callId, details }
  await tx.auditEvent.createMany({ data: auditRow(tenantId, { kind: 'OPERATOR', ...operator }, entry, now) })
  return answerOf([...rows, correction], id)
}

/** The call and its corrections. */
function rowsOf(db: TenantTransaction, callId: string): Promise<UsageRecord[]> {
  return db.usageRecord.findMany({ where: { OR: [{ id: callId }, { correctsId: callId }] }, orderBy: { correction: 'asc' } })
}

/** What the rows come to, with what is wanted in its place. Throws a ValidationProblem for what no call can have used. */
function rightFigures(rows: readonly UsageRecord[], wanted: NewCorrection['wanted']): Figures {
  const given = Object.fromEntries(figureNames.flatMap((name) => (wanted[name] == null ? [] : [[name, wanted[name]]])))
  const right: Figures = { ...figuresOf(rows), ...given }
  for (const name of figureNames) {
    if (right[name] < 0 || right[name] > mostTokens)
      throw new ValidationProblem([name], `A call uses from 0 to ${mostTokens.toLocaleString('en')} tokens of a kind.`)
  }
  if (right.cachedInputTokens > right.inputTokens)
    throw new ValidationProblem(
      ['cachedInputTokens'],
      'Cached input tokens are a part of the input tokens: there cannot be more.',
    )
  if (right.reasoningTokens > right.outputTokens)
    throw new ValidationProblem(['reasoningTokens'], 'Reasoning tokens are a part of the output tokens: there cannot be more.')
  return right
}

function figuresOf(rows: readonly UsageRecord[]): Figures {
  const sum = (name: keyof Figures) => rows.reduce((total, row) => total + row[name], 0)
  return {
    inputTokens: sum('inputTokens'),
    cachedInputTokens: sum('cachedInputTokens'),
    outputTokens: sum('outputTokens'),
    reasoningTokens: sum('reasoningTokens'),
  }
}

/** What the call was charged at. */
async function priceOf(tx: TenantTransaction, { priceId, tenantPriceId }: UsageRecord): Promise<TokenPrice> {
  const listed = priceId === null ? null : await tx.price.findFirst({ where: { id: priceId } })
  const agreed = tenantPriceId === null ? null : await tx.tenantPrice.findFirst({ where: { id: tenantPriceId } })
  const terms = termsOf(listed, agreed)
  if (!terms) throw new Error('The ledger does not say what the call was charged at.')
  return terms.rates
}

function answerOf(rows: readonly UsageRecord[], correctionId: string): CorrectedUsage {
  const [call] = rows
  if (!call) throw new NotFound('usage record')
  const { inputTokens, cachedInputTokens, outputTokens, reasoningTokens } = figuresOf(rows)
  return {
    correction: rows.find(({ id }) => id === correctionId) ?? null,
    total: {
      ...{ calls: 1n, inputTokens: BigInt(inputTokens), cachedInputTokens: BigInt(cachedInputTokens) },
      ...{ outputTokens: BigInt(outputTokens), reasoningTokens: BigInt(reasoningTokens) },
      ...{ costNanos: sumOf(rows, ({ costNanos: nanos }) => nanos), currency: call.currency },
      estimated: call.estimated,
    },
  }
}

function sumOf(rows: readonly UsageRecord[], amount: (row: UsageRecord) => bigint): bigint {
  return rows.reduce((sum, row) => sum + amount(row), 0n)
}
