import { formatApiKey, hashSecret, newSecret } from '../../src/domain/credential.ts'
import { newId } from '../../src/domain/ids.ts'
import type { Story } from './story.ts'

/** A new operator's key. */
export async function operatorKey({ catalog, settings }: Story): Promise<string> {
  const id = newId()
  const secret = newSecret()
  await catalog.createOperatorKey({ id, name: 'Olga', ...hashSecret(secret, settings.peppers) })
  return formatApiKey({ kind: 'operator', id, secret })
}
