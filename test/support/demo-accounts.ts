import { pino } from 'pino'
import { seedDatabase } from '../../src/app.ts'
import { readConfig } from '../../src/config.ts'
import type { DemoAccounts } from '../../src/domain/seed.ts'

type Account = DemoAccounts['tenants'][number]

/** Does what `bulkhead seed` does with this environment, for a new database and in this process: the demo tenants' and the operator's keys. */
export async function seedAccounts(env: Record<string, string>): Promise<{ operatorKey: string; tenants: [Account, Account] }> {
  const { operatorKey, tenants } = await seedDatabase(readConfig(env), pino({ level: 'silent' }), () => undefined)
  const [acme, globex] = tenants
  if (!operatorKey || !acme || !globex) throw new Error('The database was seeded before.')
  return { operatorKey, tenants: [acme, globex] }
}
