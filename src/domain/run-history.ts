import type { AgentConfig, Message, Run } from '../data/generated/client.ts'
import type { TenantDb } from '../data/tenant-scope.ts'
import { mostExchanges } from './agent-config-change.ts'
import type { TenantId } from './ids.ts'
import { countFitting, type Exchange, exchangeTokens, type Question } from './prompt.ts'

/** An earlier exchange of the conversation, without its text. */
type Outline = { messages: Pick<Message, 'id' | 'role' | 'tokensUsed'>[] }

/** What the run has to answer, and what was said in the conversation before it was asked, newest first. */
export type Said = { question: Question; earlier: Outline[] }

type HistoryRules = Pick<AgentConfig, 'historyPolicy' | 'historyExchanges'>

/** How many of the newest runs are looked at: each has a question and at most one reply. */
function runsTold({ historyPolicy, historyExchanges }: HistoryRules): number {
  switch (historyPolicy) {
    case 'ALL':
      return mostExchanges
    case 'LAST_EXCHANGES':
      return Math.min(historyExchanges, mostExchanges)
    case 'NONE':
      return 0
    default:
      return historyPolicy satisfies never
  }
}

/** What was said in a conversation so far, newest first, as the next run would be told. */
export async function readEarlier(
  db: TenantDb,
  tenantId: TenantId,
  conversationId: string,
  rules: HistoryRules,
): Promise<Outline[]> {
  const rows = await db.$queryShort<(Outline['messages'][number] & { runId: string })[]>`
    select m.id, m.role, m.tokens_used as "tokensUsed", m.run_id as "runId"
    from (
      select r.id, r.created_at from runs r
      where r.tenant_id = ${tenantId}::uuid and r.conversation_id = ${conversationId}::uuid and r.finished_at is not null
      order by r.created_at desc, r.id desc
      limit ${runsTold(rules)}) asked
    join messages m on m.tenant_id = ${tenantId}::uuid and m.run_id = asked.id
    order by asked.created_at desc, asked.id desc`
  return [...Map.groupBy(rows, ({ runId }) => runId).values()].map((messages) => ({ messages }))
}

/** In one round trip: somebody waits for the first token. */
export async function readSaid(db: TenantDb, run: Run, rules: HistoryRules): Promise<Said> {
  const rows = await db.$queryShort<(Outline['messages'][number] & { runId: string; question: string | null })[]>`
    select m.id, m.role, m.tokens_used as "tokensUsed", m.run_id as "runId",
      case when m.run_id = ${run.id}::uuid and m.role = 'USER' then m.content end as question
    from (
      (select r.id, r.created_at from runs r
      where r.tenant_id = ${run.tenantId}::uuid and r.conversation_id = ${run.conversationId}::uuid
        and r.finished_at is not null and r.created_at < ${run.createdAt}::timestamptz
      order by r.created_at desc, r.id desc
      limit ${runsTold(rules)})
      union all select ${run.id}::uuid, ${run.createdAt}::timestamptz) asked
    join messages m on m.tenant_id = ${run.tenantId}::uuid and m.run_id = asked.id
    order by asked.created_at desc, asked.id desc`
  const [own] = rows.filter(({ question }) => question !== null)
  if (!own) throw new Error('A run has no message to answer.')
  const earlier = Map.groupBy(rows, ({ runId }) => runId)
  earlier.delete(run.id)
  return {
    question: { content: own.question ?? '', tokens: own.tokensUsed },
    earlier: [...earlier.values()].map((messages) => ({ messages })),
  }
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
