import { Prisma } from '../data/generated/client.ts'
import type { Ports } from './ports.ts'

/** What usage events are called, as CloudEvents has it (`type`). */
const eventType = 'bulkhead.usage.recorded'

/** When a row enters the ledger, in milliseconds since the epoch, and whether the platform's feed is told. */
export type LedgerEntry = { now: number; fed: boolean }

/** A row that enters the ledger now. */
export function entryNow({ now, courier }: Pick<Ports, 'now' | 'courier'>): LedgerEntry {
  return { now: now(), fed: courier.usageFeed !== null }
}

/**
 * SQL: a part of a `with` that tells of what enters the ledger, in the statement that enters it. Before it comes a part called
 * `entered` that inserts into `usage_records`, or has what was inserted, with all columns. For each of its rows the outbox gets a
 * message to the platform's feed, if that is `fed`, and one to each of the tenant's webhooks that want USAGE and took something within
 * the last ten minutes, or were not tried, so that what nobody takes does not pile up: a CloudEvents 1.0 event
 * in structured JSON, whose id is the row's. It holds nothing of what was said, and no end user but by pseudonym; the platform's feed is
 * told no more than operators are: not whose conversation it was.
 */
export function usageMessages(tenantId: string, { fed }: Pick<LedgerEntry, 'fed'>): Prisma.Sql {
  // A webhook that is just being deleted is waited for: the row must not fail by a message that leads nowhere.
  return Prisma.sql`told as (
    insert into outbox (id, tenant_id, channel, webhook_id, payload)
    select gen_random_uuid(), e.tenant_id, r.channel, r.webhook_id, jsonb_build_object(
      'specversion', '1.0', 'id', e.id, 'source', '/bulkhead/tenants/' || e.tenant_id, 'type', ${eventType}::text,
      'subject', e.tenant_id, 'time', to_char(e.created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
      'datacontenttype', 'application/json', 'data', jsonb_build_object(
        'tenantId', e.tenant_id, 'model', e.model,
        'inputTokens', e.input_tokens, 'cachedInputTokens', e.cached_input_tokens,
        'outputTokens', e.output_tokens, 'reasoningTokens', e.reasoning_tokens, 'estimated', e.estimated,
        'costNanos', e.cost_nanos::text, 'currency', e.currency, 'correction', e.correction, 'correctsId', e.corrects_id)
        || case when r.webhook_id is null then '{}' else jsonb_build_object(
          'runId', e.run_id, 'turn', e.turn, 'attempt', e.attempt, 'conversationId', e.conversation_id, 'agentId', e.agent_id,
          'configVersion', e.config_version, 'userPseudonym', e.user_pseudonym) end)
    from entered e cross join (
      select 'USAGE_FEED'::outbox_channel as channel, null::uuid as webhook_id where ${fed}::boolean
      union all
      select 'WEBHOOK', w.id from (
        select id from webhooks where tenant_id = ${tenantId}::uuid and 'USAGE' = any (events)
          and (failing_since is null or failing_since > now() - interval '10 minutes')
        for key share) w) r)`
}
