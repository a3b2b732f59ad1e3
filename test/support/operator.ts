import type { OperatorScope } from '../../src/domain/authenticate.ts'
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

/** A new operator, signed in. */
export async function signInOperator(story: Story): Promise<OperatorScope> {
  const principal = await story.authenticate(await operatorKey(story))
  if (principal?.kind !== 'operator') throw new Error('The new operator was refused.')
  return principal.operator
}
