import type { Notification, NotificationKind } from '../data/generated/client.ts'
import type { TenantTransaction } from '../data/tenant-scope.ts'
import { isUuid, newId } from './ids.ts'
import { type Page, type PageArgs, paginate } from './page.ts'
import type { Ports } from './ports.ts'
import { requireRole, type Scope } from './scope.ts'
import type { JsonObject } from './text.ts'

/** What a tenant's admins are to be told. Equal keys tell the same thing. */
export type Notice = Pick<Notification, 'kind' | 'dedupeKey' | 'title' | 'body'> & { details: JsonObject }

/** Whose admins. */
export type NoticeOwner = Pick<Scope, 'db'> & {
  tenant: Pick<Scope['tenant'], 'id'>
  ports: Pick<Ports, 'signals' | 'now' | 'report'>
}

/** What an EMAIL of the outbox holds. */
export type EmailPayload = { to: string; subject: string; text: string }

/** What is posted to a webhook: the payload of Standard Webhooks. */
export type WebhookPayload = { type: string; timestamp: string; data: JsonObject }

/** What webhooks call each kind. */
const eventTypes: Record<NotificationKind, string> = {
  QUOTA_THRESHOLD_REACHED: 'quota.threshold_reached',
  APPROVAL_REQUESTED: 'approval.requested',
}

/**
 * Tells the tenant's admins, each notice once, whoever else tells the same: stores it, with an e-mail for each member who is an
 * admin and a message for each webhook that wants NOTIFICATION, all or nothing. Whoever follows notifications hears of it when that is committed.
 */
export async function notifyAdmins(owner: NoticeOwner, notices: readonly Notice[]): Promise<void> {
  const { tenant, db, ports } = owner
  const stored = await db.$transaction(async (tx) => {
    const ids: string[] = []
    for (const notice of notices) ids.push(...(await store(owner, tx, notice)))
    return ids
  })
  // A signal may be lost: those who follow also look.
  await Promise.allSettled(
    stored.map((notificationId) => ports.signals.publish({ type: 'NotificationCreated', tenantId: tenant.id, notificationId })),
  )
}

/** The notification's id; nothing when it is there already. */
async function store({ tenant, ports }: NoticeOwner, tx: TenantTransaction, notice: Notice): Promise<string[]> {
  const createdAt = new Date(ports.now())
  const notification = { ...notice, id: newId(), tenantId: tenant.id, createdAt }
  // Waits for whoever is just telling the same.
  const { count } = await tx.notification.createMany({ data: notification, skipDuplicates: true })
  if (count === 0) return []
  const admins = await tx.member.findMany({ where: { role: 'ADMIN' }, select: { email: true } })
  const webhooks = await tx.webhook.findMany({ where: { events: { has: 'NOTIFICATION' } }, select: { id: true } })
  const { id, kind, title, body, details } = notification
  const email = (to: string): EmailPayload => ({ to, subject: title, text: body })
  const posted: WebhookPayload = {
    ...{ type: eventTypes[kind], timestamp: createdAt.toISOString() },
    data: { notificationId: id, tenantId: tenant.id, title, body, ...details },
  }
  const entry = () => ({ id: newId(), tenantId: tenant.id, notificationId: id })
  await tx.outboxEntry.createMany({
    data: [
      ...admins.map((admin) => ({ ...entry(), channel: 'EMAIL' as const, payload: email(admin.email) })),
      ...webhooks.map((webhook) => ({ ...entry(), channel: 'WEBHOOK' as const, webhookId: webhook.id, payload: posted })),
    ],
  })
  return [id]
}

/** What the tenant's admins were told, newest first. Throws ValidationProblem as `paginate` does. For admins. */
export async function listNotifications(scope: Scope, page: PageArgs): Promise<Page<Notification>> {
  requireRole(scope, 'ADMIN')
  return paginate(page, { direction: 'desc' }, (where, orderBy, take) => scope.db.notification.findMany({ where, orderBy, take }))
}

/** Null when there is no such notification. For admins. */
export async function findNotification(scope: Scope, id: string): Promise<Notification | null> {
  requireRole(scope, 'ADMIN')
  return isUuid(id) ? scope.db.notification.findFirst({ where: { id } }) : null
}
