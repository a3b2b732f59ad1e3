import type { ApiKey, TenantRole } from '../data/generated/client.ts'
import type { TenantTransaction } from '../data/tenant-scope.ts'
import { recordAudit } from './audit.ts'
import { formatApiKey, hashSecret, newSecret } from './credential.ts'
import { NotFound, ValidationProblem } from './errors.ts'
import { idempotent } from './idempotency.ts'
import { isUuid, newId } from './ids.ts'
import { apiKeyRevoked, requestStop, stopRuns } from './run-stop.ts'
import { requireRole, type Scope } from './scope.ts'
import { cleanText } from './text.ts'
import { latestTime } from './time.ts'

export type CreateApiKeyInput = {
  name: string
  role: TenantRole
  /** The end user that an END_USER key stands for. Required for those, refused for others. */
  userId?: string | null
  /** Default: never. */
  expiresAt?: Date | null
  idempotencyKey?: string | null
}

/** `secret` is the whole key, shown here and never again: null when an idempotency key repeats an earlier call. */
export type CreatedApiKey = { apiKey: ApiKey; secret: string | null }

/** Most bytes of a name and of a user id. */
const longest = 200

/** Makes a key. For admins. */
export async function createApiKey(scope: Scope, { idempotencyKey, ...input }: CreateApiKeyInput): Promise<CreatedApiKey> {
  requireRole(scope, 'ADMIN')
  const { role, expiresAt = null } = input
  const name = cleanText('name', input.name, { max: longest })
  const userId = checkUser(role, input.userId ?? null)
  return idempotent<CreatedApiKey>(
    scope,
    { mutation: 'createApiKey', key: idempotencyKey, input },
    {
      perform: (remember) => {
        // Checked here, since a call that is repeated later is no less valid than it was.
        if (expiresAt) checkExpiry(expiresAt, scope.ports.now())
        return scope.db.$transaction(async (tx) => {
          const id = newId()
          await remember(tx, id)
          const details = { name, role, userId, expiresAt: expiresAt?.toISOString() ?? null }
          await recordAudit(scope, tx, { action: 'createApiKey', subject: 'ApiKey', subjectId: id, details })
          return issueApiKey(scope, tx, { id, name, role, userId, expiresAt })
        })
      },
      replay: async (id) => ({ apiKey: await readApiKey(scope, id), secret: null }),
    },
  )
}

type NewApiKey = {
  id: string
  name: string
  role: TenantRole
  userId?: string | null
  memberId?: string | null
  expiresAt?: Date | null
}

/** Stores a new key whose fields were checked. For admins; `tx` is the transaction it belongs to. */
export async function issueApiKey(
  scope: Scope,
  tx: TenantTransaction,
  key: NewApiKey,
): Promise<{ apiKey: ApiKey; secret: string }> {
  requireRole(scope, 'ADMIN')
  const secret = newSecret()
  const tenantId = scope.tenant.id
  const createdAt = new Date(scope.ports.now())
  const apiKey = await tx.apiKey.create({ data: { ...key, tenantId, createdAt, ...hashSecret(secret, scope.settings.peppers) } })
  return { apiKey, secret: formatApiKey({ kind: 'tenant', tenantId, id: key.id, secret }) }
}

/**
 * Ends a key for good, and within a second every connection that uses it and every run that was asked for with it. Revoking it
 * again changes nothing. For admins.
 */
export async function revokeApiKey(scope: Scope, { apiKeyId }: { apiKeyId: string }): Promise<{ apiKey: ApiKey }> {
  requireRole(scope, 'ADMIN')
  if (!isUuid(apiKeyId)) throw new NotFound('API key')
  const revokedAt = new Date(scope.ports.now())
  await scope.db.$transaction(async (tx) => {
    const { count } = await tx.apiKey.updateMany({ where: { id: apiKeyId, revokedAt: null }, data: { revokedAt } })
    if (count === 0) return
    await requestStop(tx, { apiKeyId }, apiKeyRevoked, revokedAt)
    await recordAudit(scope, tx, { action: 'revokeApiKey', subject: 'ApiKey', subjectId: apiKeyId, details: {} })
    await tx.tenant.updateMany({ where: { id: scope.tenant.id }, data: { accessVersion: { increment: 1 } } })
  })
  const apiKey = await readApiKey(scope, apiKeyId)
  // Also when it was revoked before: whoever did that may not have come this far. A signal may be lost; versions are polled, too.
  await Promise.allSettled([scope.ports.signals.publish({ type: 'AccessChanged', tenantId: scope.tenant.id })])
  await stopRuns(scope, { apiKeyId }, apiKeyRevoked)
  return { apiKey }
}

/** Every key there ever was, oldest first. For admins. */
export async function listApiKeys(scope: Scope): Promise<ApiKey[]> {
  requireRole(scope, 'ADMIN')
  return scope.db.apiKey.findMany({ orderBy: [{ createdAt: 'asc' }, { id: 'asc' }] })
}

async function readApiKey(scope: Scope, id: string): Promise<ApiKey> {
  const apiKey = await scope.db.apiKey.findFirst({ where: { id } })
  if (!apiKey) throw new NotFound('API key')
  return apiKey
}

function checkExpiry(expiresAt: Date, now: number): void {
  const time = expiresAt.getTime()
  if (!(time > now && time <= latestTime)) throw new ValidationProblem(['expiresAt'], 'The key must expire in the future.')
}

/** The user a key of `role` stands for. */
function checkUser(role: TenantRole, userId: string | null): string | null {
  if (role === 'END_USER') {
    if (userId === null) throw new ValidationProblem(['userId'], 'An END_USER key needs the id of its user.')
    return cleanText('userId', userId, { max: longest })
  }
  if (userId !== null) throw new ValidationProblem(['userId'], 'Only END_USER keys stand for a user.')
  return null
}
