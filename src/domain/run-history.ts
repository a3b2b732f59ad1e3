import { type AgentConfig, type Message, Prisma, type Run } from '../data/generated/client.ts'
import type { TenantDb } from '../data/tenant-scope.ts'
import { mostExchanges } from './agent-config-change.ts'
import type { TenantId } from './ids.ts'
import { type CallTerms, joinTerms, takeTerms, termsColumns } from './pricing.ts'
import { countFitting, type Exchange, exchangeTokens, type Question } from './prompt.ts'
import { pseudonymOf } from './user-pseudonym.ts'

/** An earlier exchange of the conversation, without its text. */
type Outline = { messages: Pick<Message, 'id' | 'role' | 'tokensUsed'>[] }

/** What the run has to answer, and what was said in the conversation before it was asked, newest first. */
export type Said = { question: Question; earlier: Outline[] }

type HistoryRules = Pick<AgentConfig, 'historyPolicy' | 'historyExchanges'>

/** SQL: how many of the newest runs are looked at, by these rules: each has a question and at most one reply. */
function runsTold({ policy, exchanges }: Record<'policy' | 'exchanges', Prisma.Sql>): Prisma.Sql {
  return Prisma.sql`(case ${policy} when 'ALL' then ${mostExchanges}::int when 'LAST_EXCHANGES' then least(${exchanges}, ${mostExchanges}::int)
    else 0 end)`
}

/** What was said in a conversation so far, newest first, as the next run would be told. */
export async function readEarlier(
  db: TenantDb,
  tenantId: TenantId,
  conversationId: string,
  rules: HistoryRules,
): Promise<Outline[]> {
  const [row] = await db.$queryShort<{ earlier: EarlierRow[] }[]>`
    select ${earlierRows({ tenantId, conversationId }, Prisma.sql`true`, runsToldBy(rules))} as earlier`
  return outlinesOf(row?.earlier ?? [])
}

/** What the run is about to be answered with: what was said, what its model costs, and its user's pseudonym; null without one. */
export type Brief = { said: Said; terms: CallTerms | null; userPseudonym: string | null }

/** In one round trip: somebody waits for the first token. */
export async function readBrief(db: TenantDb, run: Run, config: AgentConfig, now: number): Promise<Brief> {
  const { tenantId, id, userId, createdAt } = run
  const earlier = earlierRows(run, Prisma.sql`r.created_at < ${createdAt}::timestamptz`, runsToldBy(config))
  const [row] = await db.$queryShort<(BriefRow & { content: string; tokensUsed: number })[]>`
    select asked.content, asked.tokens_used as "tokensUsed", ${earlier} as earlier, ${termsColumns}, ${pseudonymSql(tenantId, Prisma.sql`${userId}::text`)} as "userPseudonym"
    from messages asked ${joinTerms(tenantId, Prisma.sql`${config.model}::text`, now)}
    where asked.tenant_id = ${tenantId}::uuid and asked.run_id = ${id}::uuid and asked.role = 'USER'`
  if (!row) throw new Error('A run has no message to answer.')
  const brief = takeBrief(row, { content: row.content, tokens: row.tokensUsed })
  return { ...brief, userPseudonym: brief.userPseudonym ?? (await pseudonymOf(db, tenantId, userId)) }
}

/**
 * SQL: the columns of a `BriefRow` for a run that was just `asked` in a conversation that is not busy, and the joins that they need, where
 * the configuration that answers is called `config`.
 */
export function briefSql(conversation: Pick<Run, 'tenantId' | 'conversationId'>, now: number) {
  const earlier = earlierRows(
    conversation,
    Prisma.sql`true`,
    runsTold({ policy: Prisma.sql`config.history_policy`, exchanges: Prisma.sql`config.history_exchanges` }),
  )
  return {
    columns: Prisma.sql`${earlier} as earlier, ${termsColumns},
      ${pseudonymSql(conversation.tenantId, Prisma.sql`asked.user_id`)} as "userPseudonym"`,
    joins: joinTerms(conversation.tenantId, Prisma.sql`config.model`, now),
  }
}

/** What a row with a brief's columns says. A user who never asked before has no pseudonym yet. */
export function takeBrief(row: BriefRow, question: Question): Brief {
  const { earlier, userPseudonym } = row
  return { said: { question, earlier: outlinesOf(earlier ?? []) }, terms: takeTerms(row), userPseudonym }
}

export type BriefRow = Record<string, unknown> & { earlier: EarlierRow[] | null; userPseudonym: string | null }
type EarlierRow = Outline['messages'][number] & { runId: string }

function pseudonymSql(tenantId: string, userId: Prisma.Sql): Prisma.Sql {
  return Prisma.sql`(select p.id from user_pseudonyms p where p.tenant_id = ${tenantId}::uuid and p.user_id = ${userId})`
}

function runsToldBy({ historyPolicy, historyExchanges }: HistoryRules): Prisma.Sql {
  return runsTold({ policy: Prisma.sql`${historyPolicy}::text`, exchanges: Prisma.sql`${historyExchanges}::int` })
}

/** SQL: the messages of those runs `r` of the conversation that are over and fit `which`, newest first. */
function earlierRows(
  { tenantId, conversationId }: Pick<Run, 'tenantId' | 'conversationId'>,
  which: Prisma.Sql,
  limit: Prisma.Sql,
): Prisma.Sql {
  return Prisma.sql`(
    select coalesce(json_agg(json_build_object('id', m.id, 'role', m.role, 'tokensUsed', m.tokens_used, 'runId', m.run_id)
      order by told.created_at desc, told.id desc), '[]')
    from (
      select r.id, r.created_at from runs r
      where r.tenant_id = ${tenantId}::uuid and r.conversation_id = ${conversationId}::uuid and r.finished_at is not null and ${which}
      order by r.created_at desc, r.id desc
      limit ${limit}) told
    join messages m on m.tenant_id = ${tenantId}::uuid and m.run_id = told.id)`
}

function outlinesOf(rows: readonly EarlierRow[]): Outline[] {
  return [...Map.groupBy(rows, ({ runId }) => runId).values()].map((messages) => ({ messages }))
}

/**
 * The newest of these exchanges that fit into `room` tokens, oldest first. They are chosen by the tokens stored with them, and
 * only their texts are read.
 */
export async function readHistory(db: TenantDb, earlier: readonly Outline[], room: number): Promise<Exchange[]> {
  const sizes = earlier.map(({ messages }) => ({
    tokens: exchangeTokens(messages.map(({ tokensUsed }) => ({ tokens: tokensUsed }))),
    messages,
  }))
  const chosen = sizes.slice(0, countFitting(sizes, room)).reverse()
  if (chosen.length === 0) return []

  const ids = chosen.flatMap(({ messages }) => messages.map(({ id }) => id))
  const contents = await db.message.findMany({ where: { id: { in: ids } }, select: { id: true, content: true } })
  const contentOf = new Map(contents.map(({ id, content }) => [id, content]))
  return chosen.map(({ tokens, messages }) => {
    const said = (role: 'USER' | 'ASSISTANT') =>
      messages.flatMap((message) => (message.role === role ? (contentOf.get(message.id) ?? []) : []))
    return {
      tokens,
      messages: [
        ...said('USER').map((content) => ({ role: 'user' as const, content })),
        ...said('ASSISTANT').map((content) => ({ role: 'assistant' as const, content })),
      ],
    }
  })
}
