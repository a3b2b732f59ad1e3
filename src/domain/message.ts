import { type AgentConfig, type Message, Prisma, type Run } from '../data/generated/client.ts'
import { columnsOf, takeModel } from '../data/model-columns.ts'
import type { TenantTransaction } from '../data/tenant-scope.ts'
import { checkingAccess, isUnchanged, requireUnchanged } from './access-check.ts'
import type { QuotaReading } from './admission.ts'
import { noteFirstCall } from './call-attempt.ts'
import { advanceConversation, nextMoment } from './conversation-clock.ts'
import { Conflict, LimitReached, NotFound } from './errors.ts'
import { type IdempotentCall, idempotent } from './idempotency.ts'
import { isUuid, newId } from './ids.ts'
import { admitMessage } from './message-admission.ts'
import { type Page, type PageArgs, paginate } from './page.ts'
import { noticeThresholds } from './quota-threshold.ts'
import { rememberRun } from './run.ts'
import { type ClaimedRun, takeTenant, versionToPin } from './run-claim.ts'
import { superseded } from './run-ending.ts'
import { type BriefRow, briefSql, takeBrief } from './run-history.ts'
import { requestStop, stopRuns } from './run-stop.ts'
import { requireRole, type Scope } from './scope.ts'
import { cleanText } from './text.ts'

/**
 * What happens to a message when the conversation is busy: one of its runs has not ended, be it queued, under way, or waiting for a
 * person or for budget. It waits its turn; it is refused; or the runs before it end as they are, and it is answered next.
 */
export type MultitaskStrategy = 'ENQUEUE' | 'REJECT' | 'INTERRUPT'

export type SendMessageInput = {
  conversationId: string
  content: string
  /** Default ENQUEUE. */
  whenBusy?: MultitaskStrategy | null
  idempotencyKey?: string | null
}

type StoredMessage = { userMessage: Message; run: Run }

/** `quota` is what the tenant has used since; null when an idempotency key repeats an earlier call, which is not counted again. */
export type SentMessage = StoredMessage & { quota: QuotaReading | null }

/** What a message may be. Bytes. */
export const contentRules = { max: 100_000, multiline: true }

/**
 * Says something in a conversation and queues the run that answers it. Throws NotFound, also for an end user when the
 * conversation is another's, ValidationProblem when the content is empty, over 100,000 bytes or no proper text, a Conflict
 * when the agent is archived and, when that is to be refused, while the conversation is busy, and QuotaExceeded or BudgetExhausted
 * when the tenant's limits do not allow it. Whatever it throws, nothing was counted. The scope may be as old as it likes: see `checkingAccess`.
 */
export function sendMessage(scope: Scope, input: SendMessageInput): Promise<SentMessage> {
  return checkingAccess(
    scope,
    (current) => send(current, input),
    (current, problem) => {
      if (problem instanceof LimitReached) void noticeThresholds(current, current.tenant, problem.quota, problem.refusal.limit)
    },
  )
}

async function send(scope: Scope, { idempotencyKey, whenBusy, ...message }: SendMessageInput): Promise<SentMessage> {
  requireRole(scope, 'END_USER')
  // What happens anyway is the same input as if it had not been said.
  const input = { ...message, ...(whenBusy && whenBusy !== 'ENQUEUE' && { whenBusy }) }
  const content = cleanText('content', input.content, contentRules)
  if (!isUuid(input.conversationId)) throw new NotFound('conversation')
  // An estimate. Counting a long text takes a tenth of a second, for which nobody shall wait at the conversation's lock.
  const tokensUsed = scope.ports.model.countTokens(scope.settings.defaultModel, content)
  const call: IdempotentCall = { mutation: 'sendMessage', key: idempotencyKey, input }
  const sent = await idempotent<SentMessage>(scope, call, {
    perform: async (remember, awaitEqual) => {
      const admitting = admitMessage(scope, call, tokensUsed, async (runId, isRepeated) => {
        if (isRepeated) await awaitEqual()
        const message = { conversationId: input.conversationId, runId, content, tokensUsed }
        const isAlone = (idempotencyKey ?? null) === null && (whenBusy ?? 'ENQUEUE') === 'ENQUEUE'
        return startHere(scope, (workerId) => {
          if (isAlone) return storeMessage(scope, scope.db, message, workerId)
          return scope.db.$transaction(async (tx) => {
            await remember(tx, runId)
            if (whenBusy === 'REJECT' || whenBusy === 'INTERRUPT')
              await holdConversation(scope, tx, message.conversationId, whenBusy)
            return storeMessage(scope, tx, message, workerId)
          })
        })
      })
      const admitted = await admitting.catch(async (error) => {
        // Whether the conversation is there must not depend on how much of a limit is left.
        if (error instanceof LimitReached) await requireConversation(scope, input.conversationId)
        throw error
      })
      return { ...admitted.result, quota: admitted.quota }
    },
    replay: async (runId) => {
      await requireUnchanged(scope)
      return { ...(await readSent(scope, runId)), quota: null }
    },
  })
  if (whenBusy === 'INTERRUPT') await stopRuns(scope, before(input.conversationId, sent.run.createdAt), superseded)
  // A wake-up that is lost costs the run two seconds and no more: workers look for overdue ones.
  if (sent.run.status === 'QUEUED') await Promise.allSettled([scope.ports.runQueue.wake(scope.tenant.id)])
  return sent
}

/**
 * Stores a message by `store` and, when a worker of this process has room, begins its run there: somebody waits for the first token, and
 * neither a wake-up nor a claim has to come first. What becomes of a run whose claim was stored and whose answer was lost, its worker sees to.
 */
async function startHere(scope: Scope, store: (workerId: string | null) => Promise<NewRun>): Promise<StoredMessage> {
  const place = scope.ports.runQueue.reserve()
  try {
    const { claimed, committed, ...stored } = await store(place?.workerId ?? null)
    const over = claimed && place?.begin(claimed)
    await committed.catch(async (error) => {
      // An admission is not taken back while tokens are held for a call of its run.
      await over
      throw error
    })
    if (claimed) {
      rememberRun(scope, stored.run)
      // The first token is waited for longer than this message's confirmation.
      await afterAll()
    }
    return stored
  } finally {
    place?.giveBack()
  }
}

/** Resolves after all that can be done now, and that which this puts off to the end of the turn of the event loop, as requests are. */
function afterAll(): Promise<void> {
  return new Promise((resolve) => process.nextTick(() => setImmediate(resolve)))
}

type NewMessage = {
  conversationId: string
  runId: string
  content: string
  tokensUsed: number
}

/** What has to be said first while the conversation is held, so that nobody else adds a run meanwhile. */
async function holdConversation(scope: Scope, tx: TenantTransaction, conversationId: string, whenBusy: 'REJECT' | 'INTERRUPT') {
  const at = await advanceConversation(tx, scope.tenant.id, conversationId, scope.ports.now())
  if (!at) throw new NotFound('conversation')
  if (whenBusy === 'REJECT') await refuseIfBusy(tx, conversationId)
  else await requestStop(tx, before(conversationId, at), superseded, at)
}

/**
 * A message that was stored, and its run as it was claimed with it; null when it waits for a worker. They are there for good once they are
 * `committed`, unless a transaction is not over.
 */
type NewRun = StoredMessage & { claimed: ClaimedRun | null; committed: Promise<void> }

/**
 * The message and the run that answers it, as the last of its conversation: see `advanceConversation`. The run is claimed for the worker, if one
 * is given, when nothing in the conversation is to be answered before: what was read of it is true if nobody wrote while this waited
 * for it. One statement, and so a transaction of its own outside of one: then a claim whose first call is noted is answered before it is
 * committed, so that all that the call needs is done while the disk is waited for.
 */
async function storeMessage(scope: Scope, tx: TenantTransaction, message: NewMessage, workerId: string | null): Promise<NewRun> {
  const { tenant, actor, ports } = scope
  const { conversationId, runId, content, tokensUsed } = message
  const brief = briefSql({ tenantId: tenant.id, conversationId }, ports.now())
  const notedAt = performance.now()
  const statement = Prisma.sql`
    with held as materialized (
      select c.updated_at from conversations c
      where c.tenant_id = ${tenant.id}::uuid and c.id = ${conversationId}::uuid and ${isUnchanged(scope)}
      for no key update),
    place as (
      update conversations c
      set updated_at = ${nextMoment(ports.now())}
      from held, agents a join agent_configs v on v.tenant_id = a.tenant_id and v.agent_id = a.id
      where c.tenant_id = ${tenant.id}::uuid and c.id = ${conversationId}::uuid
        and a.tenant_id = c.tenant_id and a.id = c.agent_id and a.archived_at is null and v.version = ${versionToPin(Prisma.sql`c.id`)}
      returning c.tenant_id, c.id, c.user_id, c.updated_at as at, c.agent_id, v.version, v.model),
    claim as (
      select ${workerId}::uuid as worker_id, p.weight
      from plans p, held join conversations c on c.updated_at = held.updated_at
      where ${workerId !== null && tenant.status === 'ACTIVE'}::boolean and p.plan = ${tenant.plan}::plan
        and c.tenant_id = ${tenant.id}::uuid and c.id = ${conversationId}::uuid
        and not exists (
          select from runs r
          where r.tenant_id = ${tenant.id}::uuid and r.conversation_id = ${conversationId}::uuid and r.finished_at is null)),
    asked as (
      insert into runs (tenant_id, id, conversation_id, user_id, agent_id, config_version, model, api_key_id, created_at, queued_at,
        status, epoch, worker_id, started_at)
      -- Queued by the clock that claims and sweeps go by, which is the database's.
      select tenant_id, ${runId}::uuid, id, user_id, agent_id, version, model, ${actor.id}::uuid, at, now(),
        case when worker_id is null then 'QUEUED' else 'RUNNING' end::run_status, case when worker_id is null then 0 else 1 end,
        worker_id, case when worker_id is not null then now() end
      from place left join claim on true
      returning *),
    said as (
      insert into messages (tenant_id, id, conversation_id, run_id, user_id, role, content, tokens_used, created_at)
      select tenant_id, ${newId()}::uuid, conversation_id, id, user_id, 'USER', ${content}::text, ${tokensUsed}::int, created_at from asked
      returning *),
    briefed as materialized (
      select ${columnsOf('AgentConfig', 'config', 'config.')}, ${brief.columns}
      from asked cross join claim
        join agent_configs config on config.tenant_id = ${tenant.id}::uuid and config.agent_id = asked.agent_id
          and config.version = asked.config_version
        ${brief.joins}),
    noted as (${noteFirstCall(ports, tenant, tokensUsed)})
    select ${columnsOf('Run', 'asked', 'run.')}, ${columnsOf('Message', 'said', 'message.')},
      claim.*, briefed.*, noted.input_tokens as "inputTokens"
    from asked cross join said left join claim on true left join briefed on true left join noted on true`
  const { rows, committed } =
    tx === scope.db
      ? await scope.db.$queryBeforeCommit<NewRunRow[]>`${statement}`
      : { rows: await tx.$queryRaw<NewRunRow[]>`${statement}`, committed: Promise.resolve() }
  const stored = rows[0]
  if (!stored) {
    await requireAnswerer(tx, conversationId)
    await requireUnchanged(scope, tx)
    // Another agent has taken the conversation over while this waited for it.
    return storeMessage(scope, tx, message, workerId)
  }
  const run = takeModel<Run>('Run', stored, 'run.')
  const userMessage = takeModel<Message>('Message', stored, 'message.')
  if (run.status === 'QUEUED') return { userMessage, run, claimed: null, committed }
  const config = takeModel<AgentConfig>('AgentConfig', stored, 'config.')
  const known = takeBrief(stored, { content, tokens: tokensUsed })
  const isKnown = run.userId === null || known.userPseudonym !== null
  const { inputTokens } = stored
  const noted = inputTokens !== null && known.terms ? { inputTokens, terms: known.terms, notedAt, stored: committed } : null
  // Whoever makes it reads more of the run, which is to be found once it is committed.
  if (!noted) await committed
  const claimed = {
    run: { ...run, config },
    tenant: { ...takeTenant(tenant), weight: stored.weight },
    brief: isKnown ? known : null,
    noted,
  }
  return { userMessage, run, claimed, committed }
}

/** `inputTokens` are those of the model call that was noted; null for none. */
type NewRunRow = BriefRow & { inputTokens: number | null; weight: number }

async function requireConversation({ db }: Scope, id: string): Promise<void> {
  if (!(await db.conversation.findFirst({ where: { id }, select: { id: true } }))) throw new NotFound('conversation')
}

async function requireAnswerer(db: TenantTransaction, id: string): Promise<void> {
  const conversation = await db.conversation.findFirst({ where: { id }, select: { agent: { select: { archivedAt: true } } } })
  if (!conversation) throw new NotFound('conversation')
  if (conversation.agent.archivedAt) throw new Conflict('The agent of the conversation is archived: it answers nothing new.')
}

async function refuseIfBusy(tx: TenantTransaction, conversationId: string): Promise<void> {
  const busy = await tx.run.findFirst({ where: { conversationId, finishedAt: null }, select: { id: true } })
  if (busy) throw new Conflict('The conversation is busy. Wait for its run to end, or send the message to wait or to interrupt.')
}

/** The runs that were asked for before. */
function before(conversationId: string, at: Date) {
  return { conversationId, createdAt: { lt: at } }
}

async function readSent(scope: Scope, runId: string): Promise<StoredMessage> {
  const run = await scope.db.run.findFirst({ where: { id: runId } })
  const userMessage = await scope.db.message.findFirst({ where: { runId, role: 'USER' } })
  if (!run || !userMessage) throw new NotFound('message')
  return { userMessage, run }
}

/** What was said in a conversation, oldest first; nothing when there is no such conversation. */
export async function listMessages(scope: Scope, conversationId: string, page: PageArgs): Promise<Page<Message>> {
  requireRole(scope, 'END_USER')
  return paginate(page, { direction: 'asc' }, async (where, orderBy, take) =>
    isUuid(conversationId) ? scope.db.message.findMany({ where: { ...where, conversationId }, orderBy, take }) : [],
  )
}

/** Those of these messages that exist and may be seen, in no order. */
export async function messagesByIds(scope: Scope, ids: readonly string[]): Promise<Message[]> {
  requireRole(scope, 'END_USER')
  return scope.db.message.findMany({ where: { id: { in: ids.filter(isUuid) } } })
}

export type RunMessages = { userMessage: Message; reply: Message | null }

/** The message that each of these runs answers, and its reply; runs that do not exist are left out. */
export async function messagesByRun(scope: Scope, runIds: readonly string[]): Promise<Map<string, RunMessages>> {
  requireRole(scope, 'END_USER')
  const messages = await scope.db.message.findMany({ where: { runId: { in: runIds.filter(isUuid) } } })
  const replies = new Map(messages.flatMap((message) => (message.role === 'ASSISTANT' ? [[message.runId, message]] : [])))
  return new Map(
    messages.flatMap((message) =>
      message.role === 'USER' ? [[message.runId, { userMessage: message, reply: replies.get(message.runId) ?? null }]] : [],
    ),
  )
}
