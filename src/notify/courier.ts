import type { Courier, Egress } from '../domain/ports.ts'
import { createMailer, type MailOptions } from './email.ts'
import { createWebhookPoster } from './webhook.ts'

export type CourierOptions = {
  /** The way to webhooks. */
  egress: Egress
  /** The way to mailboxes; null when there is none, and no e-mail is sent. */
  mail: MailOptions | null
  /** Where the usage of all tenants goes, and what it is signed with; by default nowhere. */
  usageFeed?: UsageFeedOptions | null
  /** Given what the operator should know. */
  warn: (message: string) => void
}

export type UsageFeedOptions = {
  url: string
  secret: string
  /** The way there: the operator may choose what tenants may not. */
  egress: Pick<Egress, 'request'>
}

/** Carries e-mail over SMTP, webhooks through the guard, and usage to where the operator wants it. */
export function createCourier({ egress, mail, usageFeed = null, warn }: CourierOptions): Courier {
  return { email: createMailer(mail, warn), webhook: createWebhookPoster(egress), usageFeed: feedOf(usageFeed) }
}

function feedOf(options: UsageFeedOptions | null): Courier['usageFeed'] {
  if (!options) return null
  const { url, secret, egress } = options
  const post = createWebhookPoster(egress)
  return (event, signal) => post({ ...event, url, secret }, signal)
}
