import { createHash, createHmac, pbkdf2Sync, randomBytes } from 'node:crypto'

/** Postgres' own default, `scram_iterations`. */
const iterations = 4096

/**
 * What Postgres stores for `password` (RFC 5802, RFC 7677), to be sent in its place, so that the password itself
 * never reaches the server's log. Throws a RangeError unless the password is printable ASCII: for other
 * passwords clients disagree on how to normalise them.
 */
export function scramVerifier(password: string, salt: Buffer = randomBytes(16)): string {
  if (!/^[\x20-\x7e]+$/.test(password)) throw new RangeError('The password must be printable ASCII.')
  const salted = pbkdf2Sync(password, salt, iterations, 32, 'sha256')
  const hmac = (text: string) => createHmac('sha256', salted).update(text).digest()
  const storedKey = createHash('sha256').update(hmac('Client Key')).digest('base64')
  return `SCRAM-SHA-256$${iterations}:${salt.toString('base64')}$${storedKey}:${hmac('Server Key').toString('base64')}`
}
