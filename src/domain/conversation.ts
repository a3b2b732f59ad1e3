import type { Conversation } from '../data/generated/client.ts'
import { columnsOf } from '../data/model-columns.ts'
import type { TenantTransaction } from '../data/tenant-scope.ts'
import { Forbidden, NotFound } from './errors.ts'
import { idempotent } from './idempotency.ts'
import { isUuid, newId } from './ids.ts'
import { type Page, type PageArgs, paginate } from './page.ts'
import { terminalStatuses } from './run-status.ts'
import { requireRole, type Scope } from './scope.ts'
import { cleanText } from './text.ts'

export type CreateConversationInput = {
  title?: string | null
  /** The end user it belongs to. Default: the end user who acts; for staff, nobody. */
  userId?: string | null
  /** Who answers. Default: the tenant's default agent. */
  agentId?: string | null
  idempotencyKey?: string | null
}

const titleRules = { max: 1000 }

/** Begins a conversation. End users begin their own: another user is Forbidden. Throws NotFound when there is no such agent. */
export async function createConversation(
  scope: Scope,
  { idempotencyKey, ...input }: CreateConversationInput,
): Promise<Conversation> {
  requireRole(scope, 'END_USER')
  const userId = ownUser(scope, input.userId)
  const title = input.title == null ? null : cleanText('title', input.title, titleRules)
  return idempotent(
    scope,
    { mutation: 'createConversation', key: idempotencyKey, input },
    {
      async perform(remember) {
        const begun = { id: newId(), agentId: input.agentId ?? null, userId, title }
        if ((idempotencyKey ?? null) === null) return insertConversation(scope, scope.db, begun)
        return scope.db.$transaction(async (tx) => {
          await remember(tx, begun.id)
          return insertConversation(scope, tx, begun)
        })
      },
      replay: (id) => readConversation(scope, id),
    },
  )
}

/** Gives it another title. Throws NotFound, also for an end user when it is another's. */
export async function renameConversation(
  scope: Scope,
  { conversationId, title }: { conversationId: string; title: string },
): Promise<Conversation> {
  requireRole(scope, 'END_USER')
  const data = { title: cleanText('title', title, titleRules), updatedAt: new Date(scope.ports.now()) }
  if (!isUuid(conversationId)) throw new NotFound('conversation')
  const [conversation] = await scope.db.conversation.updateManyAndReturn({ where: { id: conversationId }, data })
  if (!conversation) throw new NotFound('conversation')
  return conversation
}

/**
 * Deletes it with its messages and runs, for good. Runs under way are told to stop first, so that no model goes on talking
 * to nobody; what they cost stays in the ledger. Throws NotFound.
 */
export async function deleteConversation(
  scope: Scope,
  { conversationId }: { conversationId: string },
): Promise<{ deletedConversationId: string }> {
  requireRole(scope, 'END_USER')
  await readConversation(scope, conversationId)
  const runs = await scope.db.run.updateManyAndReturn({
    where: { conversationId, status: { notIn: terminalStatuses } },
    data: { cancelRequestedAt: new Date(scope.ports.now()) },
    select: { id: true },
  })
  const tenantId = scope.tenant.id
  // Signals may be lost: workers also look for the request, and for the run itself.
  await Promise.allSettled(runs.map(({ id }) => scope.ports.signals.publish({ type: 'CancelRun', tenantId, runId: id })))
  const { count } = await scope.db.conversation.deleteMany({ where: { id: conversationId } })
  if (count === 0) throw new NotFound('conversation')
  return { deletedConversationId: conversationId }
}

/** Null when there is no such conversation, or it is not the end user's own. */
export async function findConversation(scope: Scope, id: string): Promise<Conversation | null> {
  requireRole(scope, 'END_USER')
  return isUuid(id) ? scope.db.conversation.findFirst({ where: { id } }) : null
}

/** Those of these conversations that exist and may be seen, in no order. */
export async function conversationsByIds(scope: Scope, ids: readonly string[]): Promise<Conversation[]> {
  requireRole(scope, 'END_USER')
  return scope.db.conversation.findMany({ where: { id: { in: ids.filter(isUuid) } } })
}

/** Newest first. End users see their own: asking for another's is Forbidden. Throws ValidationProblem as `paginate` does. */
export async function listConversations(
  scope: Scope,
  page: PageArgs,
  filter: { userId?: string | null; agentId?: string | null } = {},
): Promise<Page<Conversation>> {
  requireRole(scope, 'END_USER')
  const userId = ownUser(scope, filter.userId) ?? undefined
  const agentId = filter.agentId ?? undefined
  return paginate(page, { direction: 'desc' }, async (where, orderBy, take) => {
    if (agentId !== undefined && !isUuid(agentId)) return []
    return scope.db.conversation.findMany({ where: { ...where, userId, agentId }, orderBy, take })
  })
}

/** The user a request is about: for end users themselves, for staff whom they name. */
function ownUser({ actor }: Scope, named: string | null | undefined): string | null {
  if (named == null) return actor.userId
  if (actor.userId !== null && named !== actor.userId) throw new Forbidden('You can only act for yourself.')
  return cleanText('userId', named, { max: 200 })
}

type NewConversation = Pick<Conversation, 'id' | 'userId' | 'title'> & { agentId: string | null }

/** With the agent that is named, or else the one that is the default now, unless it is archived. Throws NotFound without one. One statement. */
async function insertConversation(scope: Scope, db: TenantTransaction, begun: NewConversation): Promise<Conversation> {
  const { id, agentId, userId, title } = begun
  if (agentId !== null && !isUuid(agentId)) throw new NotFound('agent')
  const at = new Date(scope.ports.now())
  const [conversation] = await db.$queryRaw<Conversation[]>`
    insert into conversations as c (id, tenant_id, agent_id, user_id, title, created_at, updated_at)
    select ${id}::uuid, a.tenant_id, a.id, ${userId}, ${title}, ${at}, ${at}
    from tenants t join agents a on a.tenant_id = t.id and a.id = coalesce(${agentId}::uuid, t.default_agent_id)
    where t.id = ${scope.tenant.id}::uuid and a.archived_at is null
    returning ${columnsOf('Conversation', 'c')}`
  if (!conversation) throw new NotFound('agent')
  return conversation
}

async function readConversation(scope: Scope, id: string): Promise<Conversation> {
  const conversation = await findConversation(scope, id)
  if (!conversation) throw new NotFound('conversation')
  return conversation
}
