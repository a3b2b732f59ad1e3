import { Webhook } from 'standardwebhooks'
import { type Courier, DeliveryFailure, type Egress, EgressFailure } from '../domain/ports.ts'

/** What a receiver's answer may hold: nobody reads it. Bytes. */
const mostOfAnswer = 65_536

/** Posts webhooks, signed as https://www.standardwebhooks.com says. */
export function createWebhookPoster(egress: Pick<Egress, 'request'>): Courier['webhook'] {
  return async ({ id, url, secret, body, contentType }, signal) => {
    const now = new Date()
    const headers = {
      'content-type': contentType,
      'user-agent': 'Bulkhead',
      'webhook-id': id,
      'webhook-timestamp': String(Math.floor(now.getTime() / 1_000)),
      'webhook-signature': new Webhook(secret).sign(id, now, body),
    }
    // A redirect is an answer that is none: who moves, registers the new URL.
    const asked = { url, method: 'POST', headers, body, signal, maxRedirects: 0, maxBytes: mostOfAnswer } as const
    const { status } = await egress.request(asked).catch((error) => {
      if (error instanceof EgressFailure) throw new DeliveryFailure(error.message, { final: false, cause: error })
      throw error
    })
    if (status >= 200 && status < 300) return
    // By Standard Webhooks, 410 says that nobody is there any more.
    throw new DeliveryFailure(`It answered ${status}.`, { final: status === 410 })
  }
}
