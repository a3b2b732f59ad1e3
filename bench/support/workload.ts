import type { Prisma } from '../../src/data/generated/client.ts'
import { newId } from '../../src/domain/ids.ts'
import type { BenchTenant } from './seed.ts'

/** The operations that are measured, each on a tenant taken at random, so that no cache serves one tenant only. */

/** One of `list`, at random. */
export function pick<T>(list: readonly T[]): T {
  const item = list[Math.floor(Math.random() * list.length)]
  if (item === undefined) throw new RangeError('There is nothing to pick from.')
  return item
}

/** Makes a client for each tenant beforehand, as a request's scope or a cache would hold it. */
export function perTenant<Client>(tenants: BenchTenant[], make: (tenantId: string) => Client): (tenantId: string) => Client {
  const clients = new Map(tenants.map(({ tenantId }) => [tenantId, make(tenantId)]))
  return (tenantId) => {
    const client = clients.get(tenantId)
    if (client === undefined) throw new RangeError('There is no such tenant.')
    return client
  }
}

type Reader = {
  conversation: { findFirst(args: { where: { tenantId: string; id: string } }): PromiseLike<{ id: string } | null> }
}

/** Reads one conversation by its whole primary key. It names its tenant also where a wall would: all send the same key. */
export function keyedRead(tenants: BenchTenant[], clientOf: (tenantId: string) => Reader): () => Promise<void> {
  return async () => {
    const { tenantId, conversationIds } = pick(tenants)
    const id = pick(conversationIds)
    const found = await clientOf(tenantId).conversation.findFirst({ where: { tenantId, id } })
    if (found?.id !== id) throw new Error('The conversation was not found.')
  }
}

export function newConversation({ tenantId, agentId }: BenchTenant) {
  return { id: newId(), tenantId, agentId, title: 'Where is my parcel?' }
}

type Turn = { run: Prisma.RunUncheckedCreateInput; message: Prisma.MessageUncheckedCreateInput }

export function newTurn({ tenantId, agentId, conversationIds }: BenchTenant): Turn {
  const conversationId = pick(conversationIds)
  const run = { id: newId(), tenantId, conversationId, agentId, configVersion: 1, model: 'bench' }
  const content = 'Where is my parcel?'
  return { run, message: { id: newId(), tenantId, conversationId, runId: run.id, role: 'USER', content, tokensUsed: 5 } }
}

/** The two statements that start a turn: a run, and the message that asks for it. */
export async function startTurn(tx: Pick<Prisma.TransactionClient, 'run' | 'message'>, { run, message }: Turn): Promise<void> {
  await tx.run.create({ data: run })
  await tx.message.create({ data: message })
}
