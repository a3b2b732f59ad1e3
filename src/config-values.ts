import { isIP } from 'node:net'
import { z } from 'zod'

// The shapes of single values of the environment. None repeats its value in what it says is wrong: it may be a secret.

export const url = (...protocols: string[]) =>
  z.string().refine((text) => URL.canParse(text) && protocols.includes(new URL(text).protocol), {
    error: `must be a URL that starts with ${protocols.map((protocol) => `${protocol}//`).join(' or ')}`,
  })
export const postgresUrl = url('postgres:', 'postgresql:')

export function isPostgresUrl(text: string): boolean {
  return postgresUrl.safeParse(text).success
}

/** Commas separate URLs only where another begins: a password may have one. */
export const redisUrls = z
  .string()
  .transform((text) => text.split(/\s*,\s*(?=rediss?:\/\/)/))
  .pipe(z.array(url('redis:', 'rediss:')))
  .refine((urls) => urls.every((each) => /^\/?\d*$/.test(new URL(each).pathname)), {
    error: 'must name a database by its number',
  })
  .refine((urls) => new Set(urls.map(accessOf)).size === 1, {
    error: 'must have the same protocol, user, password and database in each of its URLs',
  })
export const integer = (min: number, max: number) =>
  z
    .string()
    .regex(/^\d+$/, 'must be a whole number')
    .transform(Number)
    .refine((value) => value >= min && value <= max, { error: `must be between ${min} and ${max}` })
export const secret = z.string().min(32, 'must have at least 32 characters')
const isKey = (text: string) => /^[A-Za-z0-9+/]{43}=$/.test(text)
export const key = z
  .string()
  .refine(isKey, { error: 'must be 32 random bytes in base64, as `openssl rand -base64 32` prints them' })
export const keys = z
  .string()
  .transform(listed)
  .refine((texts) => texts.every(isKey), { error: 'must be keys of 32 bytes in base64, with commas between them' })
/** Addresses, each with a port or without, in the spelling that URLs have. */
export const addresses = z.string().transform((text, context) =>
  listed(text).map((item) => {
    const { host = '', port } = /^(?<host>\[.+\]|[^:]+)(?::(?<port>\d{1,5}))?$/.exec(item)?.groups ?? {}
    if (isIP(host.replace(/^\[|\]$/g, '')) !== 0 && Number(port ?? 1) > 0 && Number(port ?? 1) < 65_536) {
      const address = new URL(`http://${host}`).hostname.replace(/^\[|\]$/g, '')
      return { address, port: port === undefined ? null : Number(port) }
    }
    context.addIssue({ code: 'custom', message: 'must be addresses such as 10.1.2.3, 127.0.0.1:9000 or [fd00::1]:9000' })
    return z.NEVER
  }),
)
/** As Standard Webhooks has it. */
export const signingSecret = z.string().refine(isSigningSecret, {
  error: 'must be whsec_ and 24 to 64 random bytes in base64, as `echo whsec_$(openssl rand -base64 32)` prints them',
})
export const withoutUser = (text: string) => !URL.canParse(text) || new URL(text).username + new URL(text).password === ''
/** A bare address, or a name and an address in angle brackets. */
export const sender = z.string().regex(/^[^\s@<>]+@[^\s@<>]+$|^[^<>\p{Cc}]+ <[^\s@<>]+@[^\s@<>]+>$/u, {
  error: 'must be an address such as bulkhead@example.com, or Bulkhead <bulkhead@example.com>',
})

/** Models that are named each have their own number, all others `others` together, null for any. */
export type ModelConcurrency = { named: ReadonlyMap<string, number>; others: number | null }

/** Reads `gpt-4o=50,*=200`: names with whole numbers above 0, each once, where `*` is all other models. Null for anything else. */
export function parseModelConcurrency(text: string): ModelConcurrency | null {
  const named = new Map<string, number>()
  for (const item of text.split(',').map((part) => part.trim())) {
    const [, name = '', cap = ''] = /^(\S+)\s*=\s*([1-9]\d{0,5})$/.exec(item) ?? []
    if (name === '' || named.has(name)) return null
    named.set(name, Number(cap))
  }
  const others = named.get('*') ?? null
  named.delete('*')
  return { named, others }
}

/** What is between the commas. */
export function listed(text: string): string[] {
  return text.split(',').flatMap((item) => item.trim() || [])
}

/** Everything of a URL but where it leads. */
function accessOf(text: string): string {
  const { protocol, username, password, pathname } = new URL(text)
  return JSON.stringify([protocol, username, password, pathname.slice(1)])
}

function isSigningSecret(text: string): boolean {
  const encoded = /^whsec_([A-Za-z0-9+/]+={0,2})$/.exec(text)?.[1] ?? ''
  const { length } = Buffer.from(encoded, 'base64')
  // Whoever signs with it decodes it strictly.
  return encoded.length % 4 === 0 && length >= 24 && length <= 64
}
