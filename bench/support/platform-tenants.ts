import pg from 'pg'
import { formatApiKey, hashSecret, newSecret } from '../../src/domain/credential.ts'
import { newId } from '../../src/domain/ids.ts'
import { boundless } from './seed.ts'

/** Makes tenants of one end user each, as an administrator whom row-level security does not bind. Answers the end users' keys. */
export async function addTenants(adminUrl: string, count: number, pepper: string): Promise<string[]> {
  const admin = new pg.Client({ connectionString: adminUrl })
  await admin.connect()
  try {
    const keys = Array.from({ length: count }, () => {
      const [tenantId, id, secret] = [newId(), newId(), newSecret()]
      const { secretHash } = hashSecret(secret, { current: 1, secrets: new Map([[1, pepper]]) })
      return { tenantId, id, secretHash, key: formatApiKey({ kind: 'tenant', tenantId, id, secret }) }
    })
    await admin.query(boundless)
    const tenantIds = keys.map(({ tenantId }) => tenantId)
    await admin.query(
      `insert into tenants (id, name, plan) select id, 'tenant ' || id, 'ENTERPRISE' from unnest($1::uuid[]) id`,
      [tenantIds],
    )
    await admin.query(
      `insert into agents (id, tenant_id, slug, name, active_version) select uuidv7(), id, 'main', 'Main', 1 from unnest($1::uuid[]) id`,
      [tenantIds],
    )
    await admin.query(`
      insert into agent_configs (id, tenant_id, agent_id, version, status, system_prompt, model, temperature, max_output_tokens,
          max_turns, branding)
        select uuidv7(), tenant_id, id, 1, 'PUBLISHED', 'Be brief.', 'gpt-4o-mini', 1, 4096, 10, '{}' from agents;
      update tenants set default_agent_id = agents.id from agents where agents.tenant_id = tenants.id;`)
    for (const { tenantId, id, secretHash } of keys) {
      await admin.query(
        `insert into api_keys (id, tenant_id, name, role, user_id, secret_hash, pepper_version)
         values ($1, $2, 'reader', 'END_USER', 'reader', $3, 1)`,
        [id, tenantId, secretHash],
      )
    }
    await admin.query('analyze')
    return keys.map(({ key }) => key)
  } finally {
    await admin.end()
  }
}
