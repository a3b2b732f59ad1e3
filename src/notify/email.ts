import { createTransport } from 'nodemailer'
import { type Courier, DeliveryFailure } from '../domain/ports.ts'

/** The server that takes e-mail, as smtp:// or smtps://, and whom it is from. */
export type MailOptions = { url: string; from: string }

/** How long the server may be silent, in milliseconds. */
const silence = 10_000

/** Hands e-mail to a mail server. Without one it fails for good, and warns of that once. */
export function createMailer(mail: MailOptions | null, warn: (message: string) => void): Courier['email'] {
  if (!mail) return withoutServer(warn)
  const { url, from } = mail
  const timeouts = { connectionTimeout: silence, greetingTimeout: silence, socketTimeout: silence, dnsTimeout: silence }
  // What a tenant wrote is text, and never a file or a URL to be fetched.
  const transport = createTransport({ url, ...timeouts, disableFileAccess: true, disableUrlAccess: true })
  const domain = from.replace(/^.*@|>$/g, '')
  return async ({ id, to, subject, text }, signal) => {
    signal.throwIfAborted()
    const leave = Promise.withResolvers<never>()
    const onAbort = () => leave.reject(signal.reason)
    signal.addEventListener('abort', onAbort)
    try {
      // An object, since a text could name several.
      const envelope = { from, to: { name: '', address: to }, subject, text, messageId: `<${id}@${domain}>` }
      await Promise.race([transport.sendMail(envelope), leave.promise])
    } catch (error) {
      signal.throwIfAborted()
      throw failureOf(error)
    } finally {
      signal.removeEventListener('abort', onAbort)
    }
  }
}

function withoutServer(warn: (message: string) => void): Courier['email'] {
  let warned = false
  return async () => {
    if (!warned) warn('SMTP_URL is not set: e-mail is not sent.')
    warned = true
    throw new DeliveryFailure('There is no mail server.', { final: true })
  }
}

/** By the reply's first digit 5 is for good (RFC 5321, 4.2.1), unless it is about who we are, which the operator can mend. */
function failureOf(error: unknown): DeliveryFailure {
  const { code = 'unknown', responseCode } = error as { code?: string; responseCode?: number }
  if (responseCode === undefined)
    return new DeliveryFailure(`The mail server cannot be reached (${code}).`, { final: false, cause: error })
  const final = responseCode >= 500 && code !== 'EAUTH'
  return new DeliveryFailure(`The mail server answered ${responseCode}.`, { final, cause: error })
}
