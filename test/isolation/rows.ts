import { createHash } from 'node:crypto'
import { dataModel } from '../../src/data/generated/data-model.ts'
import type { Wall } from '../../src/data/scoped-query.ts'
import { userModels } from '../../src/data/tenant-filter.ts'
import { newId } from '../../src/domain/ids.ts'

export type Row = Readonly<Record<string, unknown>>
/** One row of each model, in an order in which they can be inserted. */
export type Rows = Readonly<Record<string, Row>>

/** Who acts, or against whom: one row of each model is theirs, with their canary in every text column. */
export type Party = { wall: Wall; canary: string; rows: Rows }

/** Models of tables that a tenant has no access to whatever. */
export const platformModels: ReadonlySet<string> = new Set([
  'OperatorKey',
  'OperatorIdempotencyKey',
  'Worker',
  'Erasure',
  'Database',
  'TenantMove',
])

/** What all tenants may read and none owns. */
export const price = {
  id: newId(),
  model: 'm',
  version: 1,
  currency: 'USD',
  ...{ inputNanos: 1n, cachedInputNanos: 1n, outputNanos: 1n },
  ...{ validFrom: new Date(0), createdAt: new Date(0) },
}

const createdAt = new Date('2026-01-01T00:00:00Z')

/** Parties that meet have overrides of different limits, and sums of different quarters: were these alone the key, that could be told. */
const overridden = ['MESSAGES_PER_DAY', 'MESSAGES_PER_MINUTE', 'TOKENS_PER_MESSAGE']
let parties = 0

/** A tenant whose staff acts. */
export function tenantParty(canary: string): Party {
  const [tenantId, place] = [newId(), parties++]
  const quarter = new Date(createdAt.getTime() + (place % 90) * 15 * 60_000)
  const tenant = {
    id: tenantId,
    name: canary,
    plan: 'FREE',
    downgradeModel: canary,
    modelKeySecret: canary,
    modelBaseUrl: canary,
    createdAt,
  }
  const member = { id: newId(), tenantId, name: canary, email: canary, role: 'ADMIN', createdAt }
  const agent = { id: newId(), tenantId, slug: canary, name: canary, activeVersion: 1, createdAt }
  const apiKey = {
    ...{ id: newId(), tenantId, name: canary, role: 'ADMIN', userId: canary, memberId: member.id },
    ...{ secretHash: Buffer.from(canary), pepperVersion: 1, createdAt },
  }
  const config = {
    ...{ id: newId(), tenantId, agentId: agent.id, version: 1, status: 'DRAFT', createdAt },
    ...{ systemPrompt: canary, model: canary, fallbackModels: [canary], enabledTools: [canary], branding: { name: canary } },
    ...{ temperature: 1, maxOutputTokens: 1, maxTurns: 1 },
  }
  const content = contentRows({ Agent: agent }, tenantId, canary)
  const tenantPrice = {
    ...{ id: newId(), tenantId, model: canary, version: 1, inputNanos: 1n, cachedInputNanos: 1n, outputNanos: 1n },
    ...{ marginBasisPoints: 1, validFrom: createdAt, createdAt },
  }
  const credit = { id: newId(), tenantId, amountNanos: 1n, currency: canary, reason: canary, createdAt }
  const rollup = {
    ...{ tenantId, bucket: quarter, part: 1, model: canary, agentId: agent.id, configVersion: 1, currency: canary },
    ...{ isCorrection: false, estimated: false, calls: 1n, inputTokens: 1n, cachedInputTokens: 1n, outputTokens: 1n },
    ...{ reasoningTokens: 1n, costNanos: 1n },
  }
  const usageId = newId()
  const usage = {
    ...{
      id: usageId,
      tenantId,
      conversationId: content.Conversation.id,
      runId: content.Run.id,
      userPseudonym: content.UserPseudonym.id,
      agentId: agent.id,
    },
    ...{ configVersion: 1, turn: 1, call: 1, attempt: 1, model: canary, currency: canary, priceId: price.id, createdAt: quarter },
    // It corrects itself, so that there is something to correct.
    ...{ tenantPriceId: tenantPrice.id, correction: 1, correctsId: usageId },
    ...{ inputTokens: 1, cachedInputTokens: 1, outputTokens: 1, reasoningTokens: 1, estimated: false, costNanos: 1n },
  }
  const callAttempt = {
    tenantPriceId: tenantPrice.id,
    ...{ tenantId, runId: content.Run.id, turn: 1, call: 1, attempt: 1, conversationId: content.Conversation.id },
    ...{ userPseudonym: content.UserPseudonym.id, agentId: agent.id, configVersion: 1, model: canary, priceId: price.id },
    ...{ inputTokens: 1, outputBound: 1, createdAt },
  }
  const idempotencyKey = { tenantId, actor: canary, mutation: canary, key: canary, inputHash: Buffer.from(canary) }
  const dataKey = { id: newId(), tenantId, wrappedKey: Buffer.from(canary), wrappingKeyId: canary, createdAt }
  const secret = {
    ...{ id: newId(), tenantId, name: canary, ciphertext: Buffer.from(canary), dataKeyId: dataKey.id },
    ...{ createdAt, updatedAt: createdAt },
  }
  const auditEvent = {
    ...{ id: newId(), tenantId, actorKind: 'API_KEY', actorId: apiKey.id, actorName: canary, action: canary },
    ...{ subject: canary, subjectId: apiKey.id, details: { canary }, createdAt },
  }
  const tenantExport = { id: newId(), tenantId, apiKeyId: apiKey.id, rowsTotal: 1, createdAt, expiresAt: createdAt }
  const notification = {
    ...{ id: newId(), tenantId, kind: 'QUOTA_THRESHOLD_REACHED', dedupeKey: canary, title: canary, body: canary },
    ...{ details: { canary }, createdAt },
  }
  const webhook = {
    ...{ id: newId(), tenantId, url: `https://${canary}.example/`, description: canary },
    ...{ ciphertext: Buffer.from(canary), dataKeyId: dataKey.id, createdAt },
  }
  const tool = {
    ...{ id: newId(), tenantId, kind: 'HTTP', name: canary, description: canary, createdAt, updatedAt: createdAt },
    definition: {
      ...{ method: 'GET', url: `https://${canary}.example/`, parameters: { type: 'object' }, headers: [], timeoutMs: 1_000 },
      ...{ allowedHosts: [`${canary}.example`], responseMapping: [], maxBytes: 1, isIdempotent: true },
      ...{ approval: 'NEVER', approvalWhen: null },
    },
  }
  // Due when no test runs: these rows are there to be seen, and nobody is to deliver them.
  const dueAt = new Date('2999-01-01T00:00:00Z')
  const outboxEntry = {
    ...{ id: newId(), tenantId, channel: 'WEBHOOK', notificationId: notification.id, webhookId: webhook.id },
    ...{ payload: { canary }, dueAt, lastFailure: canary, createdAt },
  }
  const limit = overridden[place % overridden.length]
  const quotaOverride = { tenantId, limit, max: 7_000n, reason: canary, createdAt }
  const rows = {
    Tenant: tenant,
    Member: member,
    ApiKey: apiKey,
    Agent: agent,
    AgentConfig: config,
    ...content,
    TenantPrice: tenantPrice,
    UsageRecord: usage,
    ModelCallAttempt: callAttempt,
    IdempotencyKey: { ...idempotencyKey, resultId: newId(), createdAt },
    DataKey: dataKey,
    Secret: secret,
    AuditEvent: auditEvent,
    TenantExport: tenantExport,
    QuotaOverride: quotaOverride,
    Notification: notification,
    Webhook: webhook,
    Tool: tool,
    OutboxEntry: outboxEntry,
    Credit: credit,
    UsageRollup: rollup,
  }
  return { wall: { tenantId, userId: null }, canary, rows }
}

/** Another agent of the party's tenant, which is not the default one, and its configuration. */
export function spareAgent(party: Party): Record<'Agent' | 'AgentConfig', Row> {
  const [agent, config] = [rowOf(party, 'Agent'), rowOf(party, 'AgentConfig')]
  const beside = (id: unknown) => String(id).replace(/.$/, (digit) => (digit === '0' ? '1' : '0'))
  const id = beside(agent['id'])
  return { Agent: { ...agent, id, slug: 'spare' }, AgentConfig: { ...config, id: beside(config['id']), agentId: id } }
}

/** An end user of the tenant, with a conversation, a run and a message of their own. */
export function userParty({ wall: { tenantId }, rows }: Party, userId: string): Party {
  return { wall: { tenantId, userId }, canary: userId, rows: { ...rows, ...contentRows(rows, tenantId, userId) } }
}

function contentRows(rows: Rows, tenantId: string, canary: string) {
  const agentId = rows['Agent']?.['id']
  const conversation = { id: newId(), tenantId, agentId, userId: canary, title: canary, createdAt, updatedAt: createdAt }
  const run = {
    ...{ id: newId(), tenantId, conversationId: conversation.id, agentId, userId: canary, configVersion: 1 },
    ...{
      model: canary,
      downgradedFrom: canary,
      turns: [canary],
      failureCode: canary,
      failureMessage: canary,
      createdAt,
      queuedAt: createdAt,
    },
  }
  const message = {
    ...{ id: newId(), tenantId, conversationId: conversation.id, runId: run.id, userId: canary },
    ...{ role: 'USER', content: canary, tokensUsed: 1, createdAt },
  }
  const toolCall = {
    ...{ id: newId(), tenantId, runId: run.id, userId: canary, turn: 0, place: 0, callId: canary, name: canary },
    ...{ arguments: canary, argumentsHash: hashOf(canary), status: 'WAITING', result: canary },
    ...{ decidedBy: canary, reason: canary, createdAt, expiresAt: new Date('2999-01-01T00:00:00Z') },
  }
  return {
    UserPseudonym: { id: newId(), tenantId, userId: canary, createdAt },
    Conversation: conversation,
    Run: run,
    Message: message,
    ToolCall: toolCall,
  }
}

/** As the database has it of a tool call's arguments. */
export function hashOf(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}

/** What the party's row of each model could be replaced by: the same, under keys that are not taken. */
export function freshRows({ rows }: Party): Rows {
  const taken: Readonly<Record<string, object>> = {
    Tenant: { name: 'fresh', defaultAgentId: null },
    Member: { email: 'fresh' },
    Agent: { slug: 'fresh' },
    AgentConfig: { version: 2 },
    Message: { role: 'ASSISTANT' },
    ToolCall: { place: 1 },
    UsageRecord: { attempt: 2 },
    TenantPrice: { version: 2 },
    UsageRollup: { part: 2 },
    ModelCallAttempt: { attempt: 2 },
    IdempotencyKey: { key: 'fresh' },
    Secret: { name: 'fresh' },
    Tool: { name: 'fresh' },
    QuotaOverride: { limit: 'CONCURRENT_SESSIONS' },
    UserPseudonym: { userId: 'fresh' },
    Notification: { dedupeKey: 'fresh' },
  }
  const fresh = ([model, row]: [string, Row]) =>
    [model, { ...row, ...('id' in row && { id: newId() }), ...taken[model] }] as const
  return Object.fromEntries(Object.entries(rows).map(fresh))
}

/** A change of each model's rows that the product's grants allow, or, when they allow none, any. */
export const changes: Readonly<Record<string, Row>> = {
  Tenant: { defaultAgentId: null },
  Member: { name: 'changed' },
  ApiKey: { revokedAt: createdAt },
  Agent: { name: 'changed' },
  AgentConfig: { systemPrompt: 'changed' },
  Conversation: { title: 'changed' },
  Run: { failureMessage: 'changed' },
  Message: { content: 'changed' },
  ToolCall: { result: 'changed' },
  UsageRecord: { model: 'changed' },
  TenantPrice: { marginBasisPoints: 2 },
  Credit: { reason: 'changed' },
  UsageRollup: { part: 3 },
  ModelCallAttempt: { model: 'changed' },
  IdempotencyKey: { resultId: newId() },
  DataKey: { wrappingKeyId: 'changed' },
  Secret: { ciphertext: Buffer.from('changed') },
  AuditEvent: { details: 'changed' },
  TenantExport: { rowsSent: 1 },
  QuotaOverride: { reason: 'changed' },
  Notification: { title: 'changed' },
  Webhook: { url: 'changed' },
  Tool: { description: 'changed' },
  OutboxEntry: { lastFailure: 'changed' },
  UserPseudonym: { createdAt: new Date('2026-02-02T00:00:00Z') },
}

/** The column that says whose a row is: what the wall between these two parties is on. */
export function ownerColumn(model: string, { userId }: Wall): string {
  if (model === 'Tenant') return 'id'
  return userId !== null && userModels.has(model) ? 'userId' : 'tenantId'
}

export function rowOf({ rows }: Pick<Party, 'rows'>, model: string): Row {
  const row = rows[model]
  if (!row) throw new Error(`No row of the model ${model}: add one to tenantParty.`)
  return row
}

export function pick(row: Row, columns: readonly string[]): Row {
  return Object.fromEntries(columns.map((column) => [column, row[column]]))
}

/** Each unique key of the model, as Prisma's unique filters name it. */
export function uniqueFilters(model: string, row: Row): Row[] {
  if (model === 'Tenant') return [pick(row, ['id']), pick(row, ['name'])]
  return Object.entries(dataModel[model]?.compoundKeys ?? {}).map(([name, columns]) => ({ [name]: pick(row, columns) }))
}

/** The columns of the primary key that are not the tenant. */
export function keyColumns(model: string): readonly string[] {
  const columns = Object.values(dataModel[model]?.compoundKeys ?? {})[0]
  return model === 'Tenant' ? ['id'] : (columns ?? []).filter((column) => column !== 'tenantId')
}
