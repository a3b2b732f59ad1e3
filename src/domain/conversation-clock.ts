import type { TenantTransaction } from '../data/tenant-scope.ts'
import type { TenantId } from './ids.ts'

export type ConversationPlace = {
  /** Later than everything in the conversation, and in general `now`. */
  at: Date
  userId: string | null
  agentId: string
  /** Version and model of the agent's active configuration. */
  configVersion: number
  model: string
}

/**
 * Takes the next moment of the conversation for what `tx` adds to it, and holds the conversation until `tx` ends. What is
 * said in a conversation thereby has one order, however many instances write and however their clocks differ. Whoever
 * locks a run of the conversation too calls this first, so that no two wait for each other. Null when it does not exist.
 */
export async function advanceConversation(
  tx: TenantTransaction,
  tenantId: TenantId,
  conversationId: string,
  now: number,
): Promise<ConversationPlace | null> {
  const [place] = await tx.$queryRaw<ConversationPlace[]>`
    update conversations c
    set updated_at = greatest(${new Date(now)}::timestamptz, c.updated_at + interval '1 millisecond')
    from agents a join agent_configs v on v.tenant_id = a.tenant_id and v.agent_id = a.id and v.version = a.active_version
    where c.tenant_id = ${tenantId}::uuid and c.id = ${conversationId}::uuid
      and a.tenant_id = c.tenant_id and a.id = c.agent_id
    returning c.updated_at as "at", c.user_id as "userId", a.id as "agentId", v.version as "configVersion", v.model`
  return place ?? null
}
