import { randomBytes } from 'node:crypto'
import type { Prisma, Webhook } from '../data/generated/client.ts'
import type { TenantDb, TenantTransaction } from '../data/tenant-scope.ts'
import { recordAudit } from './audit.ts'
import { Conflict, NotFound, ValidationProblem } from './errors.ts'
import { idempotent } from './idempotency.ts'
import { isUuid, newId, type TenantId } from './ids.ts'
import type { Vault } from './ports.ts'
import { requireRole, type Scope } from './scope.ts'
import { tenantCipher } from './secret.ts'
import { cleanText } from './text.ts'

/** What a webhook may be told of: what the admins are told, and each model call as it enters the ledger. */
export const webhookEvents = ['NOTIFICATION', 'USAGE'] as const
export type WebhookEvent = (typeof webhookEvents)[number]

/** What may be known of a webhook: all but its signing secret. */
export type WebhookEntry = Pick<Webhook, 'id' | 'url' | 'description' | 'failingSince' | 'createdAt'> & { events: WebhookEvent[] }

/** `events` is by default NOTIFICATION alone. */
export type CreateWebhookInput = {
  url: string
  description?: string | null
  events?: readonly WebhookEvent[] | null
  idempotencyKey?: string | null
}

/** `secret` is shown here and never again: null when an idempotency key repeats an earlier call. */
export type CreatedWebhook = { webhook: WebhookEntry; secret: string | null }

const entry = {
  id: true,
  url: true,
  description: true,
  events: true,
  failingSince: true,
  createdAt: true,
} satisfies Prisma.WebhookSelect

/** Webhooks of a tenant. */
const most = 10

/** Most bytes of a URL and of a description. */
const longestUrl = 2_000
const longestDescription = 200

/**
 * Registers where the tenant wants to be told of `events`. Throws a ValidationProblem for a URL that may not be called, and for events
 * that are none or name one twice, and a Conflict when the tenant has 10 webhooks. For admins.
 */
export async function createWebhook(scope: Scope, { idempotencyKey, ...input }: CreateWebhookInput): Promise<CreatedWebhook> {
  requireRole(scope, 'ADMIN')
  const url = checkUrl(scope, input.url)
  const description = input.description == null ? null : cleanText('description', input.description, { max: longestDescription })
  const events = checkEvents(input.events ?? ['NOTIFICATION'])
  const { dataKeyId, cipher } = await tenantCipher(scope)
  return idempotent<CreatedWebhook>(
    scope,
    { mutation: 'createWebhook', key: idempotencyKey, input: { url, description, events } },
    {
      perform: (remember) =>
        scope.db.$transaction(async (tx) => {
          const webhook = { id: newId(), url, description, events, failingSince: null, createdAt: new Date(scope.ports.now()) }
          await remember(tx, webhook.id)
          await checkRoom(scope, tx)
          const secret = newSigningSecret()
          const row = { ...webhook, tenantId: scope.tenant.id, ciphertext: cipher.encrypt(webhook.id, secret), dataKeyId }
          await tx.webhook.createMany({ data: row })
          // A path or query may hold a token of the receiver's.
          const details = { origin: new URL(url).origin, description, events }
          await recordAudit(scope, tx, { action: 'createWebhook', subject: 'Webhook', subjectId: webhook.id, details })
          return { webhook, secret }
        }),
      replay: async (id) => {
        const webhook = await findWebhook(scope, id)
        if (!webhook) throw new NotFound('webhook')
        return { webhook, secret: null }
      },
    },
  )
}

/** Ends a webhook. What was not delivered to it yet never is. For admins. */
export async function deleteWebhook(scope: Scope, { webhookId }: { webhookId: string }): Promise<{ webhook: WebhookEntry }> {
  const webhook = await findWebhook(scope, webhookId)
  if (!webhook) throw new NotFound('webhook')
  return scope.db.$transaction(async (tx) => {
    const { count } = await tx.webhook.deleteMany({ where: { id: webhookId } })
    if (count === 0) throw new NotFound('webhook')
    const details = { origin: new URL(webhook.url).origin, description: webhook.description }
    await recordAudit(scope, tx, { action: 'deleteWebhook', subject: 'Webhook', subjectId: webhookId, details })
    return { webhook }
  })
}

/** All of the tenant's webhooks, the oldest first. For admins. */
export async function listWebhooks(scope: Scope): Promise<WebhookEntry[]> {
  requireRole(scope, 'ADMIN')
  const webhooks = await scope.db.webhook.findMany({ select: entry, orderBy: [{ createdAt: 'asc' }, { id: 'asc' }] })
  return webhooks.map(entryOf)
}

/** Null when there is no such webhook. For admins. */
export async function findWebhook(scope: Scope, id: string): Promise<WebhookEntry | null> {
  requireRole(scope, 'ADMIN')
  const webhook = isUuid(id) ? await scope.db.webhook.findFirst({ where: { id }, select: entry }) : null
  return webhook && entryOf(webhook)
}

/** The database holds no other events than these. */
function entryOf(webhook: Omit<WebhookEntry, 'events'> & { events: string[] }): WebhookEntry {
  return { ...webhook, events: webhook.events as WebhookEvent[] }
}

type WebhookOwner = { tenantId: TenantId; db: TenantDb; vault: Vault }

/** Where a webhook leads, and what to sign with; null when it was deleted. For whoever delivers. */
export async function openWebhook(owner: WebhookOwner, id: string): Promise<{ url: string; secret: string } | null> {
  const webhook = await owner.db.webhook.findFirst({ where: { id }, include: { dataKey: true } })
  if (!webhook) return null
  const cipher = await owner.vault.unlock(owner.tenantId, webhook.dataKey)
  return { url: webhook.url, secret: cipher.decrypt(id, webhook.ciphertext) }
}

/** In the order in which they are listed, so that two calls that mean the same are the same. */
function checkEvents(events: readonly WebhookEvent[]): WebhookEvent[] {
  if (events.length === 0) throw new ValidationProblem(['events'], 'Name at least one event.')
  if (new Set(events).size !== events.length) throw new ValidationProblem(['events'], 'Name each event once.')
  return webhookEvents.filter((event) => events.includes(event))
}

function checkUrl({ ports }: Scope, text: string): string {
  const url = cleanText('url', text, { max: longestUrl })
  const refusal = ports.egress.refusalOf(url)
  if (refusal !== null) throw new ValidationProblem(['url'], refusal)
  return url
}

async function checkRoom({ tenant }: Scope, tx: TenantTransaction): Promise<void> {
  // One after the other, so that two do not both find the last place.
  await tx.$queryRaw`select from tenants where id = ${tenant.id}::uuid for no key update`
  if ((await tx.webhook.count()) >= most) throw new Conflict(`There are ${most} webhooks already. Delete one first.`)
}

/** As Standard Webhooks has it: 24 to 64 random bytes, in base64 behind a prefix. */
function newSigningSecret(): string {
  return `whsec_${randomBytes(32).toString('base64')}`
}
