import type { Plan } from '../data/generated/client.ts'
import { formatApiKey, hashSecret, newSecret } from './credential.ts'
import { newId } from './ids.ts'
import type { Platform } from './scope.ts'
import { registerTenant, type TenantRegistration } from './tenant.ts'

/** The accounts to try the platform with. The keys are shown here and never again. */
export type DemoAccounts = {
  /** Null when no tenant was missing. */
  operatorKey: string | null
  /** The tenants that were missing. */
  tenants: { name: string; plan: Plan; adminKey: string; memberKey: string }[]
}

const demoTenants: TenantRegistration[] = [
  {
    name: 'acme',
    plan: 'PRO',
    agent: {
      slug: 'assistant',
      name: 'Acme Assistant',
      systemPrompt:
        'You are the assistant of Acme, a maker of road-runner traps. Answer in one short, confident paragraph and sign as "Acme Support".',
      enabledTools: ['current_time'],
    },
    staff: [
      { name: 'Ada of Acme', email: 'ada@acme.example', role: 'ADMIN' },
      { name: 'Max of Acme', email: 'max@acme.example', role: 'MEMBER' },
    ],
  },
  {
    name: 'globex',
    plan: 'FREE',
    agent: {
      slug: 'assistant',
      name: 'Globex Concierge',
      systemPrompt:
        'You are the concierge of Globex, a hotel chain. Answer politely, as a list of at most three points, and end with "Enjoy your stay."',
    },
    staff: [
      { name: 'Gia of Globex', email: 'gia@globex.example', role: 'ADMIN' },
      { name: 'Moe of Globex', email: 'moe@globex.example', role: 'MEMBER' },
    ],
  },
]

/** Registers the demo tenants that are missing, and with them an operator's key. A tenant that is there is left alone. */
export async function seedDemo(platform: Platform): Promise<DemoAccounts> {
  const tenants: DemoAccounts['tenants'] = []
  for (const registration of demoTenants) {
    const { name, plan } = registration
    const existing = await platform.catalog.findTenantByName(name)
    // The agent of one that was moved is where its rows are.
    if (existing?.defaultAgentId || existing?.databaseId) continue
    const { keys } = await registerTenant(platform, registration)
    const [adminKey = '', memberKey = ''] = keys
    tenants.push({ name, plan, adminKey, memberKey })
  }
  return { operatorKey: tenants.length === 0 ? null : await createOperatorKey(platform), tenants }
}

async function createOperatorKey({ catalog, settings }: Platform): Promise<string> {
  const id = newId()
  const secret = newSecret()
  await catalog.createOperatorKey({ id, name: 'Demo operator', ...hashSecret(secret, settings.peppers) })
  return formatApiKey({ kind: 'operator', id, secret })
}
