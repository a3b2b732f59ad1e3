import type { DataKey, Prisma, Secret } from '../data/generated/client.ts'
import type { TenantTransaction } from '../data/tenant-scope.ts'
import { recordAudit } from './audit.ts'
import { NotFound, ValidationProblem } from './errors.ts'
import { idempotent } from './idempotency.ts'
import { isUuid, newId, type TenantId } from './ids.ts'
import type { SecretCipher, Vault } from './ports.ts'
import { requireRole, type Scope } from './scope.ts'

/** What may be known of a secret: all but its value. */
export type SecretEntry = Pick<Secret, 'id' | 'name' | 'createdAt' | 'updatedAt'>

export type SetSecretInput = { name: string; value: string; idempotencyKey?: string | null }

const entry = { id: true, name: true, createdAt: true, updatedAt: true } satisfies Prisma.SecretSelect

/** What tools can name a secret by. */
export const secretName = /^[A-Za-z][A-Za-z0-9_.-]{0,99}$/

/** Most bytes of a value in UTF-8. */
const largest = 64 * 1024

/** Keeps the value under the name, encrypted, in the place of the one that was there. For admins. */
export async function setSecret(scope: Scope, { idempotencyKey, ...input }: SetSecretInput): Promise<{ secret: SecretEntry }> {
  requireRole(scope, 'ADMIN')
  const name = checkName(input.name)
  const value = checkValue(input.value)
  const { dataKeyId, cipher } = await tenantCipher(scope)
  return idempotent(
    scope,
    // A plain hash of the input would let whoever reads it try values until one fits.
    { mutation: 'setSecret', key: idempotencyKey, input: { name, value: cipher.fingerprint(value) } },
    {
      perform: (remember) =>
        scope.db.$transaction(async (tx) => {
          const sealFor = (id: string) => ({ ciphertext: cipher.encrypt(id, value), dataKeyId })
          const secret = await store(scope, tx, name, sealFor)
          // Only now is it known which one it is. An equal call at the same time has waited for the row of this name.
          await remember(tx, secret.id)
          await recordAudit(scope, tx, { action: 'setSecret', subject: 'Secret', subjectId: secret.id, details: { name } })
          return { secret }
        }),
      replay: async (id) => {
        const secret = await findSecret(scope, id)
        if (!secret) throw new NotFound('secret')
        return { secret }
      },
    },
  )
}

/** Erases the secret. Whatever uses it fails from then on. For admins. */
export async function deleteSecret(scope: Scope, { secretId }: { secretId: string }): Promise<{ secret: SecretEntry }> {
  requireRole(scope, 'ADMIN')
  return scope.db.$transaction(async (tx) => {
    const secret = isUuid(secretId) ? await tx.secret.findFirst({ where: { id: secretId }, select: entry }) : null
    const { count } = secret ? await tx.secret.deleteMany({ where: { id: secretId } }) : { count: 0 }
    if (!secret || count === 0) throw new NotFound('secret')
    const details = { name: secret.name }
    await recordAudit(scope, tx, { action: 'deleteSecret', subject: 'Secret', subjectId: secretId, details })
    return { secret }
  })
}

/** All of the tenant's secrets by name. For admins. */
export async function listSecrets(scope: Scope): Promise<SecretEntry[]> {
  requireRole(scope, 'ADMIN')
  return scope.db.secret.findMany({ select: entry, orderBy: { name: 'asc' } })
}

/** Null when there is no such secret. For admins. */
export async function findSecret(scope: Scope, id: string): Promise<SecretEntry | null> {
  requireRole(scope, 'ADMIN')
  return isUuid(id) ? scope.db.secret.findFirst({ where: { id }, select: entry }) : null
}

type SecretOwner = { tenantId: TenantId; db: TenantTransaction; vault: Vault }

/** The values of the secrets of these names, by name; without those that there are not. For requests alone that send them. */
export async function revealSecrets(owner: SecretOwner, names: readonly string[]): Promise<Map<string, string>> {
  const { tenantId, db, vault } = owner
  const secrets = await db.secret.findMany({ where: { name: { in: [...names] } }, include: { dataKey: true } })
  const revealed = secrets.map(async ({ id, name, ciphertext, dataKey }) => {
    const cipher = await vault.unlock(tenantId, dataKey)
    return [name, cipher.decrypt(id, ciphertext)] as const
  })
  return new Map(await Promise.all(revealed))
}

type Sealed = { ciphertext: Uint8Array<ArrayBuffer>; dataKeyId: string }

/** Makes the secret of this name, or gives it another value. A value is sealed for one row, so it is sealed when that is known. */
async function store(scope: Scope, tx: TenantTransaction, name: string, sealFor: (id: string) => Sealed): Promise<SecretEntry> {
  const now = new Date(scope.ports.now())
  const fresh = { id: newId(), name, createdAt: now, updatedAt: now }
  const row = { ...fresh, ...sealFor(fresh.id), tenantId: scope.tenant.id }
  // Waits for whoever is making one of this name.
  const made = await tx.secret.createMany({ data: row, skipDuplicates: true })
  if (made.count > 0) return fresh
  const known = await tx.secret.findFirst({ where: { name }, select: entry })
  if (known) {
    const { id } = known
    const replaced = await tx.secret.updateMany({ where: { id }, data: { ...sealFor(id), updatedAt: now } })
    if (replaced.count > 0) return { ...known, updatedAt: now }
  }
  // It was deleted in the meantime.
  return store(scope, tx, name, sealFor)
}

/** The tenant's data key, open; made when the first secret is set. To be called outside of transactions. */
export async function tenantCipher(scope: Scope): Promise<{ dataKeyId: string; cipher: SecretCipher }> {
  const newest = { orderBy: [{ createdAt: 'desc' }, { id: 'desc' }] } satisfies Prisma.DataKeyFindFirstArgs
  const key = (await scope.db.dataKey.findFirst(newest)) ?? (await firstKey(scope))
  return { dataKeyId: key.id, cipher: await scope.ports.vault.unlock(scope.tenant.id, key) }
}

/** It has its tenant's id, so that of two that are made at once Postgres keeps one, which both then use. */
async function firstKey(scope: Scope): Promise<DataKey> {
  const id = scope.tenant.id
  const data = { ...(await scope.ports.vault.createKey(id)), id, tenantId: id, createdAt: new Date(scope.ports.now()) }
  await scope.db.dataKey.createMany({ data, skipDuplicates: true })
  return scope.db.dataKey.findFirstOrThrow({ where: { id } })
}

function checkName(name: string): string {
  if (secretName.test(name)) return name
  throw new ValidationProblem(
    ['name'],
    'The name must begin with a letter and have at most 100 letters, digits, dots, hyphens and underscores.',
  )
}

/** Any text that UTF-8 can hold: keys and certificates have line breaks. */
function checkValue(value: string): string {
  if (value === '') throw new ValidationProblem(['value'], 'The value must not be empty.')
  if (value.length > largest || Buffer.byteLength(value) > largest) {
    throw new ValidationProblem(['value'], `The value must have at most ${largest.toLocaleString('en')} bytes.`)
  }
  if (!value.isWellFormed()) throw new ValidationProblem(['value'], 'The value must be valid Unicode.')
  return value
}
