import pg from 'pg'

/** How much there is to read: as many rows in each tenant. */
export const sizes = { tenants: 50, conversationsPerTenant: 20, messagesPerConversation: 50 }

/** One seeded tenant, and the ids of what it has. */
export type BenchTenant = { tenantId: string; agentId: string; conversationIds: string[] }

/** A statement after which no plan keeps a bench from what it does. */
export const boundless =
  'update plans set messages_per_minute = 1000000, messages_per_day = 1000000, concurrent_sessions = 10000, monthly_tokens = 1000000000000'

/** Fills a migrated, empty database, as an administrator whom row-level security does not bind. */
export async function seedTenants(adminUrl: string): Promise<BenchTenant[]> {
  const admin = new pg.Client({ connectionString: adminUrl })
  await admin.connect()
  try {
    await admin.query(boundless)
    await admin.query(
      `insert into tenants (id, name, plan) select uuidv7(), 'tenant ' || n, 'PRO' from generate_series(1, $1::int) n`,
      [sizes.tenants],
    )
    await admin.query(`
      insert into agents (id, tenant_id, slug, name, active_version) select uuidv7(), id, 'main', 'Main', 1 from tenants;
      insert into agent_configs (id, tenant_id, agent_id, version, status, system_prompt, model, temperature, max_output_tokens,
          max_turns, branding)
        select uuidv7(), tenant_id, id, 1, 'PUBLISHED', 'Be brief.', 'bench', 1, 1000, 10, '{}' from agents;`)
    await admin.query(
      `insert into conversations (id, tenant_id, agent_id, title)
       select uuidv7(), tenant_id, id, 'Conversation ' || n from agents, generate_series(1, $1::int) n`,
      [sizes.conversationsPerTenant],
    )
    // A run owns two messages: the question and the reply.
    await admin.query(
      `insert into runs (id, tenant_id, conversation_id, agent_id, status, config_version, model, finished_at)
       select uuidv7(), tenant_id, id, agent_id, 'COMPLETED', 1, 'bench', now() from conversations, generate_series(1, $1::int / 2)`,
      [sizes.messagesPerConversation],
    )
    await admin.query(`
      insert into messages (id, tenant_id, conversation_id, run_id, role, content, tokens_used)
        select uuidv7(), tenant_id, conversation_id, id, role, repeat('Where is my parcel? ', 10), 50
        from runs, unnest(array['USER', 'ASSISTANT']::message_role[]) role`)
    await admin.query('vacuum analyze')
    const { rows } = await admin.query<BenchTenant>(`
      select tenant_id as "tenantId", agent_id as "agentId", array_agg(id) as "conversationIds"
      from conversations group by tenant_id, agent_id`)
    return rows
  } finally {
    await admin.end()
  }
}
