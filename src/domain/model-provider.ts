import { tenantIdOf } from './ids.ts'
import { type ModelAccount, ModelError } from './ports.ts'
import type { RunTask } from './run-loop.ts'

/** What a header can hold of a key. */
const printable = /^[\x21-\x7e]+$/

/**
 * The account with a model provider that the run's tenant brought; null when it is the platform's that is called. Throws a ModelError, and
 * the platform's is not called in its place, when the key is gone or none.
 */
export async function ownAccount({ run, tenant, db, ports }: RunTask): Promise<ModelAccount | null> {
  const { modelKeySecret: name, modelBaseUrl: baseUrl } = tenant
  if (name === null) return null
  const secret = await db.secret.findFirst({ where: { name }, include: { dataKey: true } })
  if (!secret) throw unusable('The secret that the setting modelKeySecret names is gone.')
  const cipher = await ports.vault.unlock(tenantIdOf(run.tenantId), secret.dataKey)
  const apiKey = cipher.decrypt(secret.id, secret.ciphertext)
  if (!printable.test(apiKey)) throw unusable('The secret that the setting modelKeySecret names holds no key.')
  return { apiKey, baseUrl }
}

function unusable(message: string): ModelError {
  return new ModelError('MODEL_REFUSED', message, { retryable: false })
}
