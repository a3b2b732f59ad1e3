import { type ModelCallAttempt, Prisma, type Run } from '../data/generated/client.ts'
import type { TenantTransaction } from '../data/tenant-scope.ts'
import type { SettledCall } from './admission.ts'
import { settle } from './escrow.ts'
import { foldText } from './event-log.ts'
import type { Ports } from './ports.ts'
import { type CallTerms, termsOf } from './pricing.ts'
import { type Prompt, tokensPerMessage } from './prompt.ts'
import type { LoggedEvent, TokenUsage } from './run-event.ts'
import { logEpoch } from './run-log.ts'
import { textOf, turnsOf } from './run-turn.ts'
import type { Scope, TenantProfile } from './scope.ts'
import { recordUsage } from './usage.ts'
import { entryNow } from './usage-feed.ts'

/** A model call that is about to be made. `turn` counts from 0; `userPseudonym` is as the ledger has it. */
export type PlannedCall = { turn: number; prompt: Prompt; terms: CallTerms; userPseudonym: string | null }

/**
 * The model call that a claim was stored with, before anybody composed its prompt: what was noted of it, and when, by `performance.now()`.
 * Until `stored` has resolved neither may the model be called nor the run be written to; when it rejects, they may not at all.
 */
export type NotedCall = { inputTokens: number; terms: CallTerms; notedAt: number; stored: Promise<void> }

/** Whether the claim that something was noted with is stored, once that is known. It is true of one with which nothing was. */
export async function isStored(noted: NotedCall | null): Promise<boolean> {
  return (
    noted === null ||
    noted.stored.then(
      () => true,
      () => false,
    )
  )
}

/** How long it stands, in milliseconds: far less than a worker must be silent before others take its runs over. */
const notedFor = 1_000

/**
 * Notes that a claim is about to call the model, so that the call is accounted for whatever becomes of this process. False, and
 * nothing is noted, when the run is no longer that claim's: then the model must not be called. When it is another model than the run's so far,
 * it is the run's from then on, and what was noted of the turn, and cost nothing, is forgotten. What was `noted` with the claim stands if it
 * is this call, and is replaced if not.
 */
export async function beginCall(
  db: TenantTransaction,
  run: Run,
  call: PlannedCall,
  noted: NotedCall | null = null,
): Promise<boolean> {
  const { turn, prompt, terms, userPseudonym } = call
  const { model } = prompt.request
  const isOther = model !== run.model
  if (noted && !isOther && isAsNoted(call, noted)) return true
  if (!(await isStored(noted))) return false
  const ours = Prisma.sql`tenant_id = ${run.tenantId}::uuid and id = ${run.id}::uuid and epoch = ${run.epoch}::int and status = 'RUNNING'`
  // The insertion waits for the count, and so for the row in its place to be gone.
  const handOn = Prisma.sql`
    with forgotten as (
      delete from model_call_attempts
      where tenant_id = ${run.tenantId}::uuid and run_id = ${run.id}::uuid and turn = ${turn}::int and call = 0 and attempt = ${run.epoch}::int
      returning turn),
    answering as (update runs set model = ${model} where ${ours} returning *)`
  const isReplaced = isOther || noted !== null
  const begun = await db.$executeRaw`
    ${isReplaced ? handOn : Prisma.empty}
    insert into model_call_attempts (${attemptColumns})
    select tenant_id, id, ${turn}::int, 0, epoch, conversation_id, ${userPseudonym}::uuid, agent_id,
      config_version, model, ${terms.listed?.id ?? null}::uuid, ${terms.agreed?.id ?? null}::uuid, ${prompt.inputTokens}::int, ${prompt.request.maxOutputTokens}::int
    from ${isReplaced ? Prisma.sql`answering cross join (select count(*) from forgotten) as done` : Prisma.sql`runs where ${ours}`}`
  if (begun === 1) run.model = model
  return begun === 1
}

const attemptColumns = Prisma.sql`tenant_id, run_id, turn, call, attempt, conversation_id, user_pseudonym, agent_id,
      config_version, model, price_id, tenant_price_id, input_tokens, output_bound`

/** Model, price and user cannot be others: they were read by the statement that noted it. */
function isAsNoted({ turn, prompt, terms }: PlannedCall, noted: NotedCall): boolean {
  return (
    turn === 0 &&
    prompt.inputTokens === noted.inputTokens &&
    terms === noted.terms &&
    performance.now() - noted.notedAt < notedFor
  )
}

/**
 * SQL: notes the first call of a run that the statement has `asked` and claimed, where it is sure to follow at once and all that it will be
 * can be read off the `briefed` configuration: its agent's own model answers, on the platform's account, without tools to be told of and without
 * waiting for a slot, and the history fits whole. Answers its `input_tokens`, as `composePrompt` will count them.
 */
export function noteFirstCall(
  { modelSlots }: Pick<Ports, 'modelSlots'>,
  { downgradeModel, modelKeySecret }: TenantProfile,
  questionTokens: number,
): Prisma.Sql {
  const { bounded } = modelSlots
  return Prisma.sql`
    insert into model_call_attempts (${attemptColumns})
    select asked.tenant_id, asked.id, 0, 0, asked.epoch, asked.conversation_id, b."userPseudonym", asked.agent_id,
      asked.config_version, asked.model, b."listed.id", b."agreed.id", input.tokens::int, b."config.maxOutputTokens"
    from asked cross join briefed b cross join claim cross join lateral (
      select b."config.systemPromptTokens" + ${questionTokens + 2 * tokensPerMessage}::bigint
        + coalesce(sum((said ->> 'tokensUsed')::bigint + ${tokensPerMessage}::int), 0) as tokens
      from json_array_elements(b.earlier) said) input
    where input.tokens + b."config.maxOutputTokens" <= b."config.contextWindow" and b."listed.id" is not null
      and b."config.enabledTools" = '{}' and b."config.handoffAgentIds" = '{}'
      and ${downgradeModel === null && modelKeySecret === null}::boolean
      and (asked.user_id is null or b."userPseudonym" is not null)
      and ${bounded !== null}::boolean and asked.model <> all (${bounded ?? []}::text[])
    returning input_tokens`
}

/** Whose attempts these are: all rows of a tenant, or those of an end user. */
type Owner = Pick<Scope, 'db' | 'ports'> & { tenant: Pick<Scope['tenant'], 'id'> }

/**
 * Enters the run's calls that nobody will report any more, those of its claims up to `lastClaim`, by default of all: marked as estimated, with the
 * input that was sent, and as output what had come by the run's log. What is no longer there is not counted. Whoever made such a
 * call and is alive all the same finds it entered, and enters nothing: the ledger has each call once. The counters are told, unless
 * they cannot be reached.
 */
export async function settleCalls({ tenant, db, ports }: Owner, runId: string, lastClaim?: number): Promise<void> {
  const where = { runId, ...(lastClaim !== undefined && { attempt: { lte: lastClaim } }) }
  const attempts = await db.modelCallAttempt.findMany({ where, include: { price: true, tenantPrice: true } })
  if (attempts.length === 0) return
  const run = await db.run.findFirst({ where: { id: runId }, select: { turns: true } })
  // A log that cannot be reached has nothing to tell, like one that has expired.
  const log = await ports.eventLog.read({ tenantId: tenant.id, runId }, null).catch(() => ({ events: [] }))
  const calls: SettledCall[] = []
  for (const attempt of attempts) {
    const written = writtenIn(attempt, run, log.events)
    const outputTokens = written.reduce((sum, text) => sum + ports.model.countTokens(attempt.model, text), 0)
    const usage: TokenUsage = {
      ...{ inputTokens: attempt.inputTokens, cachedInputTokens: 0 },
      ...{ outputTokens, reasoningTokens: 0, estimated: true },
    }
    const terms = termsOf(attempt.price, attempt.tenantPrice)
    if (!terms) throw new Error('A model call was noted without a price.')
    calls.push(await recordUsage(db, { key: attempt, usage, terms, entry: entryNow(ports) }))
  }
  await settle({ tenant, ports }, { runId, calls, leave: null })
}

/** What the model wrote in an attempt, by the log: text, and the tool calls that were begun. */
function writtenIn(
  { turn, attempt }: ModelCallAttempt,
  run: Pick<Run, 'turns'> | null,
  events: readonly LoggedEvent[],
): string[] {
  const own = events.filter(({ cursor }) => cursor.epoch >= logEpoch(attempt) && cursor.epoch < logEpoch(attempt + 1))
  // A claim's first event restates what was before, unless it is the first claim. What was trimmed is restated further on.
  const base = own[0]?.cursor.seq === 1 ? 0 : own.findIndex(({ event }) => event.type === 'StreamReset')
  const turns = run ? turnsOf(run) : []
  if (base === -1 || turns.length < turn) return []
  const before = turns.slice(0, turn)
  const [text, textBefore] = [foldText(own.slice(base)), textOf(before)]
  const known = new Set(before.flatMap(({ toolCalls }) => toolCalls.map(({ id }) => id)))
  const toolCalls = own.flatMap(({ event }) =>
    event.type === 'ToolCallStarted' && !known.has(event.toolCallId) ? [event.name, event.arguments] : [],
  )
  return [text.startsWith(textBefore) ? text.slice(textBefore.length) : '', ...toolCalls]
}
