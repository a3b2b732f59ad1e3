import type { Run } from '../data/generated/client.ts'
import type { TenantDb } from '../data/tenant-scope.ts'
import { countFitting, type Exchange, exchangeTokens } from './prompt.ts'
import { terminalStatuses } from './run-status.ts'

/** Runs looked at, the newest: each has a question and at most one reply, so 200 messages. */
const mostRuns = 100

/**
 * What was said in the conversation before this run asked, oldest first: the newest exchanges that fit into `room` tokens.
 * They are chosen by the tokens stored with them, and only their texts are read.
 */
export async function readHistory(db: TenantDb, run: Run, room: number): Promise<Exchange[]> {
  const earlier = await db.run.findMany({
    where: {
      conversationId: run.conversationId,
      status: { in: terminalStatuses },
      createdAt: { lt: run.createdAt },
    },
    orderBy: [{ createdAt: 'desc' }, { id: 'desc' }],
    take: mostRuns,
    select: { messages: { select: { id: true, role: true, tokensUsed: true } } },
  })
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
