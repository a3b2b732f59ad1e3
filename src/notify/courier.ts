import type { Courier, Egress } from '../domain/ports.ts'
import { createMailer, type MailOptions } from './email.ts'
import { createWebhookPoster } from './webhook.ts'

export type CourierOptions = {
  /** The way to webhooks. */
  egress: Egress
  /** The way to mailboxes; null when there is none, and no e-mail is sent. */
  mail: MailOptions | null
  /** Given what the operator should know. */
  warn: (message: string) => void
}

/** Carries e-mail over SMTP, and webhooks through the guard. */
export function createCourier({ egress, mail, warn }: CourierOptions): Courier {
  return { email: createMailer(mail, warn), webhook: createWebhookPoster(egress) }
}
