import type { Message, Run } from '../data/generated/client.ts'
import type { TenantDb } from '../data/tenant-scope.ts'
import { countFitting, type Exchange, exchangeTokens } from './prompt.ts'
import { terminalStatuses } from './run-status.ts'

/** Runs looked at, the newest: each has a question and at most one reply, so 200 messages. */
const mostRuns = 100

/** An earlier exchange of the conversation, without its text. */
type Outline = { messages: Pick<Message, 'id' | 'role' | 'tokensUsed'>[] }

/** What was said in the conversation before this run asked, newest first. */
export function outlineHistory(db: TenantDb, run: Run): Promise<Outline[]> {
  return db.run.findMany({
    where: {
      conversationId: run.conversationId,
      status: { in: terminalStatuses },
      createdAt: { lt: run.createdAt },
    },
    orderBy: [{ createdAt: 'desc' }, { id: 'desc' }],
    take: mostRuns,
    select: { messages: { select: { id: true, role: true, tokensUsed: true } } },
  })
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

/** The message that the run answers. */
export async function readQuestion(db: TenantDb, run: Run): Promise<{ content: string; tokens: number }> {
  const { content, tokensUsed } = await db.message.findFirstOrThrow({ where: { runId: run.id, role: 'USER' } })
  return { content, tokens: tokensUsed }
}
