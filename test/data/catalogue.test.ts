import pg from 'pg'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { globalTables } from '../../src/data/global-tables.ts'
import { createTestDatabase, type TestDatabase } from '../support/postgres.ts'

let database: TestDatabase
let admin: pg.Client

beforeAll(async () => {
  database = await createTestDatabase()
  admin = new pg.Client({ connectionString: database.adminUrl })
  await admin.connect()
})

afterAll(async () => {
  await admin.end()
  await database.drop()
})

const roles = `(select oid, rolname from pg_roles where rolname in ('bulkhead_app', 'bulkhead_platform', 'bulkhead_eraser'))`
/** Tables, also partitions and foreign ones, and the column that says whose a row is; null for global tables. */
const tables = `(
  select c.oid, c.relname::text, c.relrowsecurity, c.relforcerowsecurity, c.relowner,
    case when c.relname = 'tenants' then 'id' else (select a.attname from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id') end as wall
  from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'f'))`
const tenantSetting = `( SELECT (NULLIF(current_setting('app.current_tenant'::text, true), ''::text))::uuid AS "nullif")`
const userSetting = `( SELECT NULLIF(current_setting('app.current_user'::text, true), ''::text) AS "nullif")`
const rolesOf = (policy: string) =>
  `(select array_agg(rolname::text order by rolname) from pg_roles r where r.oid = any(${policy}.polroles))`

/** Each rule as a query for what breaks it, and changes that would break it. The tags name the rules of isolation it proves. */
const rules: { rule: string; tags: string[]; offenders: string; brokenBy: string[] }[] = [
  {
    rule: 'every table has a tenant_id, or is named with its reason',
    tags: ['rule-19'],
    offenders: `select relname from ${tables} t where (wall is null or relname = 'tenants') <> (relname = any ('{${Object.keys(globalTables)}}'))
      union all select name from unnest('{${Object.keys(globalTables)}}'::text[]) name where to_regclass(name) is null`,
    brokenBy: ['create table stray (id uuid)', 'alter table workers rename to crew', 'alter table prices add tenant_id uuid'],
  },
  {
    rule: 'tenant tables have row-level security enabled and forced',
    tags: ['rule-1'],
    offenders: `select relname from ${tables} t where wall is not null and not (relrowsecurity and relforcerowsecurity)`,
    brokenBy: [
      'alter table messages disable row level security',
      'alter table tenants no force row level security',
      'create table stray (tenant_id uuid)',
    ],
  },
  {
    rule: 'tenant tables have the wall, for reading and writing, for every role that tenants work as',
    tags: ['rule-1'],
    offenders: `select relname from ${tables} t where wall is not null and not exists (
      select from pg_policy p where p.polrelid = t.oid and p.polname = 'tenant_wall' and not p.polpermissive and p.polcmd = '*'
        and pg_get_expr(p.polqual, t.oid) = format('(%s = %s)', wall, $$${tenantSetting}$$)
        and pg_get_expr(p.polwithcheck, t.oid) = format('(%s = %s)', wall, $$${tenantSetting}$$)
        and ${rolesOf('p')} = case relname when 'tenants' then '{bulkhead_app}'::text[] else '{bulkhead_app,bulkhead_eraser}' end)`,
    brokenBy: [
      'drop policy tenant_wall on messages',
      'alter policy tenant_wall on runs using (true)',
      'alter policy tenant_wall on agents with check (true)',
      'alter policy tenant_wall on members to bulkhead_app',
      'drop policy tenant_wall on tenants',
    ],
  },
  {
    rule: 'what belongs to an end user has the wall between end users',
    tags: ['rule-18'],
    offenders: `select relname from ${tables} t join pg_attribute u on u.attrelid = t.oid and u.attname = 'user_id'
      where wall is not null and relname <> 'api_keys' and not exists (
      select from pg_policy p where p.polrelid = t.oid and p.polname = 'user_wall' and not p.polpermissive and p.polcmd = '*'
        and pg_get_expr(p.polqual, t.oid) = $$((${userSetting} IS NULL) OR (user_id = ${userSetting}))$$
        and pg_get_expr(p.polwithcheck, t.oid) = pg_get_expr(p.polqual, t.oid) and ${rolesOf('p')} = '{bulkhead_app}')`,
    brokenBy: ['drop policy user_wall on runs', 'alter policy user_wall on messages with check (true)'],
  },
  {
    rule: 'no permissive policy is there but the known ones',
    tags: ['rule-1'],
    offenders: `select t.relname || ': ' || p.polname from ${tables} t join pg_policy p on p.polrelid = t.oid where p.polpermissive
      and not (p.polname = 'tenant_access' and ${rolesOf('p')} <@ '{bulkhead_app,bulkhead_eraser}')
      and not (p.polname = 'platform_access' and relname in ('tenants', 'runs', 'model_call_attempts', 'audit_events', 'outbox', 'quota_overrides', 'tenant_prices', 'credits', 'usage_rollups', 'data_keys') and ${rolesOf('p')} = '{bulkhead_platform}')`,
    brokenBy: [
      'create policy open on messages using (true)',
      'alter policy platform_access on runs to bulkhead_platform, bulkhead_app',
    ],
  },
  {
    rule: 'foreign keys between tenant tables carry the tenant',
    tags: ['rule-9'],
    offenders: `select k.conname from pg_constraint k join ${tables} f on f.oid = k.conrelid join ${tables} t on t.oid = k.confrelid
      where k.contype = 'f' and f.wall is not null and t.wall is not null and not exists (
        select from unnest(k.conkey, k.confkey) as pair (f, t)
        join pg_attribute fa on fa.attrelid = f.oid and fa.attnum = pair.f and fa.attname = f.wall
        join pg_attribute ta on ta.attrelid = t.oid and ta.attnum = pair.t and ta.attname = t.wall)`,
    brokenBy: [
      'alter table agents add unique (id); alter table runs add foreign key (agent_id) references agents (id)',
      'alter table agents add unique (id, tenant_id); alter table runs add foreign key (tenant_id, agent_id) references agents (id, tenant_id)',
    ],
  },
  {
    rule: 'unique keys of tenant tables start with the tenant',
    tags: ['rule-10'],
    offenders: `select i.indexrelid::regclass::text from pg_index i join ${tables} t on t.oid = i.indrelid
      join pg_attribute a on a.attrelid = t.oid and a.attname = 'tenant_id' where i.indisunique and i.indkey[0] <> a.attnum`,
    brokenBy: ['create unique index on members (email)', 'create unique index on members (email, tenant_id)'],
  },
  {
    rule: 'all belongs to bulkhead_owner',
    tags: ['rule-2', 'roles'],
    offenders: `select relname::text from pg_class where relnamespace = 'public'::regnamespace and relowner <> 'bulkhead_owner'::regrole
      union all select typname from pg_type where typnamespace = 'public'::regnamespace and typowner <> 'bulkhead_owner'::regrole
      union all select proname from pg_proc where pronamespace = 'public'::regnamespace and proowner <> 'bulkhead_owner'::regrole
      union all select nspname from pg_namespace where nspname = 'public' and nspowner <> 'bulkhead_owner'::regrole
      union all select r.rolname from ${roles} r join pg_shdepend d on d.refobjid = r.oid and d.refclassid = 'pg_authid'::regclass and d.deptype = 'o'`,
    brokenBy: [
      'alter table agents owner to bulkhead_app',
      'alter schema public owner to current_user',
      'create schema s authorization bulkhead_app',
    ],
  },
  {
    rule: 'the roles have no power of their own and none through others',
    tags: ['rule-2', 'roles'],
    offenders: `select rolname from pg_roles where rolname like 'bulkhead\\_%'
        and (rolsuper or rolbypassrls or rolcreatedb or rolcreaterole or rolreplication or rolname = 'bulkhead_owner' and rolcanlogin)
      union all select r.rolname from ${roles} r join pg_auth_members m on m.member = r.oid
        where r.rolname <> 'bulkhead_platform' or m.roleid <> 'bulkhead_eraser'::regrole or pg_has_role(r.oid, m.roleid, 'USAGE')`,
    brokenBy: [
      'alter role bulkhead_app bypassrls',
      'alter role bulkhead_owner login',
      'grant pg_read_all_data to bulkhead_app',
      'grant bulkhead_owner to bulkhead_platform',
    ],
  },
  {
    rule: 'nobody may truncate, reference or pass a privilege on, and PUBLIC may do nothing',
    tags: ['rule-2'],
    offenders: `with acl as (
        select c.oid::regclass::text as name, a.* from pg_class c, aclexplode(c.relacl) a where c.relnamespace = 'public'::regnamespace
        union all select attrelid::regclass::text, a.* from pg_attribute join pg_class c on c.oid = attrelid, aclexplode(attacl) a where c.relnamespace = 'public'::regnamespace
        union all select nspname, a.* from pg_namespace, aclexplode(nspacl) a where nspname = 'public'
        union all select proname, a.* from pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner))) a where pronamespace = 'public'::regnamespace)
      select distinct name || ': ' || privilege_type from acl where grantee <> 'bulkhead_owner'::regrole
        and (grantee = 0 or is_grantable or privilege_type not in ('SELECT', 'INSERT', 'UPDATE', 'DELETE', 'USAGE'))`,
    brokenBy: [
      'grant truncate on messages to bulkhead_app',
      'grant create on schema public to bulkhead_app',
      'grant select (id) on messages to public',
      'grant select on agents to bulkhead_app with grant option',
      'create function f() returns int return 1',
    ],
  },
  {
    rule: 'no role may move a row to another tenant or give it another id',
    tags: ['rule-11'],
    offenders: `select r.rolname || ': ' || relname || '.' || a.attname from ${tables} t join pg_attribute a on a.attrelid = t.oid, ${roles} r
      where t.wall is not null and a.attname in (t.wall, 'id') and has_column_privilege(r.oid, t.oid, a.attnum, 'UPDATE')`,
    brokenBy: [
      'grant update on runs to bulkhead_app',
      'grant update (tenant_id) on agents to bulkhead_eraser',
      'grant update (id) on tenants to bulkhead_platform',
    ],
  },
  {
    rule: 'every tenant table but the tenants themselves has the fence',
    tags: [],
    offenders: `select relname from ${tables} t where wall = 'tenant_id' and not exists (
      select from pg_trigger g where g.tgrelid = t.oid and g.tgname = 'fence' and g.tgenabled = 'O'
        and pg_get_triggerdef(g.oid) like '%BEFORE INSERT OR DELETE OR UPDATE ON % FOR EACH STATEMENT WHEN ((current_setting(''app.unfenced_tenant''::text, true) IS DISTINCT FROM current_setting(''app.current_tenant''::text, true))) EXECUTE FUNCTION refuse_fenced_writes()')`,
    brokenBy: [
      'drop trigger fence on messages',
      'alter table runs disable trigger fence',
      `drop trigger fence on runs; create trigger fence before insert or update or delete on runs for each statement when (false) execute function refuse_fenced_writes()`,
    ],
  },
  {
    rule: 'nobody reads a partition, or its parent, past the walls: each of them has its own',
    tags: ['rule-3'],
    offenders: `select t.relname from ${tables} t join pg_class c using (oid) where (c.relispartition or c.relkind = 'p' or c.relkind = 'f')
        and not (t.relrowsecurity and t.relforcerowsecurity and exists (
          select from pg_policy p where p.polrelid = t.oid and p.polname = 'tenant_wall' and not p.polpermissive and p.polcmd = '*'))
      union select i.inhrelid::regclass::text from pg_inherits i join ${tables} t on t.oid = i.inhparent join pg_class c on c.oid = i.inhrelid
        where c.relkind <> 'i' and not (c.relrowsecurity and c.relforcerowsecurity)`,
    brokenBy: [
      'create table logs (tenant_id uuid) partition by hash (tenant_id)',
      `create table logs (tenant_id uuid) partition by hash (tenant_id); alter table logs enable row level security, force row level security;
       create policy tenant_wall on logs as restrictive using (true); create table logs_0 partition of logs for values with (modulus 1, remainder 0)`,
      'create table more_messages () inherits (messages)',
      `create schema elsewhere; create table elsewhere.more_messages () inherits (messages)`,
    ],
  },
  {
    rule: 'nothing is kept where these rules do not look',
    tags: ['rule-19'],
    offenders: `select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.relkind in ('r', 'p', 'f', 'v', 'm') and n.nspname not in ('public', 'pg_catalog', 'information_schema') and n.nspname not like 'pg\\_t%'
      union all select p.oid::regprocedure::text from pg_proc p join pg_namespace n on n.oid = p.pronamespace
        where n.nspname not in ('public', 'pg_catalog', 'information_schema')`,
    brokenBy: [
      'create schema elsewhere; create table elsewhere.messages (tenant_id uuid)',
      'create schema elsewhere; create view elsewhere.messages as select * from messages',
      'create schema elsewhere; create function elsewhere.f() returns int security definer return 1',
    ],
  },
  {
    rule: 'views see what their reader may see, and no function acts as its owner',
    tags: ['rule-8'],
    offenders: `select relname::text from pg_class where relnamespace = 'public'::regnamespace
        and (relkind = 'm' or relkind = 'v' and not coalesce('security_invoker=true' = any (reloptions), false))
      union all select proname from pg_proc where pronamespace = 'public'::regnamespace and prosecdef`,
    brokenBy: [
      'create view v as select * from messages',
      'create materialized view v as select * from messages',
      'create function f() returns int security definer return 1',
    ],
  },
]

for (const { rule, tags, offenders, brokenBy } of rules) {
  describe(rule, { tags }, () => {
    const find = async () => (await admin.query({ text: offenders, rowMode: 'array' })).rows.flat()

    it('holds', async () => {
      expect(await find()).toEqual([])
    })

    it.each(brokenBy)('would notice: %s', async (change) => {
      await admin.query('begin')
      try {
        await admin.query(change)
        expect(await find()).not.toEqual([])
      } finally {
        await admin.query('rollback')
      }
    })
  })
}

describe('what each role may do', { tags: ['roles', 'rule-2'] }, () => {
  /** `table: privileges`, with the columns when they are not all. */
  async function grantsOf(role: string): Promise<Record<string, string>> {
    const { rows } = await admin.query<{ relname: string; privileges: string }>(
      `with privileges as (
         select t.oid, relname, privilege_type, null as columns from ${tables} t join pg_class c using (oid, relname), aclexplode(c.relacl) a where a.grantee = $1::regrole
         union all select t.oid, relname, privilege_type, string_agg(attname, ' ' order by attnum) from ${tables} t join pg_attribute on attrelid = t.oid, aclexplode(attacl) a
         where a.grantee = $1::regrole group by t.oid, relname, privilege_type)
       select relname, string_agg(privilege_type || coalesce(' (' || columns || ')', ''), ', ' order by privilege_type) as privileges from privileges group by relname`,
      [role],
    )
    return Object.fromEntries(rows.map((row) => [row.relname, row.privileges]))
  }

  it('as a tenant', async () => {
    expect(await grantsOf('bulkhead_app')).toEqual({
      tenants:
        'SELECT, UPDATE (default_agent_id access_version budget_behaviour downgrade_at downgrade_model limits_version quota_thresholds time_zone past_time_zones model_base_url model_key_secret)',
      members: 'DELETE, INSERT, SELECT, UPDATE (name role)',
      api_keys: 'INSERT, SELECT, UPDATE (revoked_at)',
      agents: 'INSERT, SELECT, UPDATE (name active_version archived_at canary_percent canary_version)',
      agent_configs:
        'INSERT, SELECT, UPDATE (status system_prompt model fallback_models temperature max_output_tokens max_turns enabled_tools branding published_at budget_behaviour handoff_agent_ids history_exchanges history_policy context_window system_prompt_tokens)',
      conversations: 'DELETE, INSERT, SELECT, UPDATE (agent_id title updated_at)',
      messages: 'INSERT, SELECT',
      runs: 'INSERT, SELECT, UPDATE (agent_id status epoch worker_id config_version model turns finish_reason failure_code failure_message cancel_requested_at queued_at started_at finished_at downgraded_from excused_claims resume_at)',
      tool_calls: 'INSERT, SELECT, UPDATE (status epoch result expires_at decided_at decided_by reason started_at finished_at)',
      usage_records: 'INSERT, SELECT',
      model_call_attempts: 'DELETE, INSERT, SELECT',
      idempotency_keys: 'DELETE, INSERT, SELECT',
      audit_events: 'INSERT, SELECT',
      data_keys: 'INSERT, SELECT, UPDATE (wrapped_key wrapping_key_id)',
      secrets: 'DELETE, INSERT, SELECT, UPDATE (ciphertext data_key_id updated_at)',
      user_pseudonyms: 'INSERT, SELECT',
      tenant_exports: 'INSERT, SELECT, UPDATE (status rows_sent finished_at)',
      notifications: 'INSERT, SELECT',
      webhooks: 'DELETE, INSERT, SELECT, UPDATE (failing_since)',
      tools: 'DELETE, INSERT, SELECT, UPDATE (description definition updated_at)',
      outbox: 'DELETE, INSERT, SELECT, UPDATE (status attempts due_at last_failure finished_at)',
      quota_overrides: 'SELECT',
      tenant_prices: 'SELECT',
      credits: 'SELECT',
      usage_rollups: 'DELETE, INSERT, SELECT, UPDATE (part)',
      prices: 'SELECT',
      plans: 'SELECT',
    })
  })

  it('as the platform: no column that holds what a tenant wrote', async () => {
    expect(await grantsOf('bulkhead_platform')).toEqual({
      tenants:
        'INSERT, SELECT, UPDATE (name plan status default_agent_id access_version database_id fenced_at budget_behaviour downgrade_at downgrade_model limits_version quota_thresholds time_zone past_time_zones model_base_url model_key_secret)',
      audit_events: 'INSERT',
      runs: 'SELECT (id tenant_id status epoch worker_id cancel_requested_at queued_at)',
      model_call_attempts: 'SELECT (tenant_id run_id attempt created_at)',
      outbox: 'SELECT (id tenant_id channel due_at)',
      data_keys: 'SELECT (tenant_id wrapping_key_id)',
      operator_keys: 'DELETE, INSERT, SELECT, UPDATE',
      workers: 'DELETE, INSERT, SELECT, UPDATE',
      quota_overrides: 'DELETE, INSERT, SELECT, UPDATE (max reason expires_at created_at)',
      prices: 'INSERT, SELECT',
      tenant_prices: 'INSERT, SELECT',
      credits: 'INSERT, SELECT',
      usage_rollups: 'SELECT (tenant_id bucket part)',
      plans: 'SELECT, UPDATE',
      operator_idempotency_keys: 'DELETE, INSERT, SELECT, UPDATE',
      erasures: 'DELETE, INSERT, SELECT, UPDATE',
      databases: 'DELETE, INSERT, SELECT, UPDATE',
      tenant_moves: 'DELETE, INSERT, SELECT, UPDATE',
    })
  })

  it('as the eraser: nothing but deleting', async () => {
    const { rows } = await admin.query<{ relname: string }>(`select relname from ${tables} t where wall = 'tenant_id'`)
    const expected = Object.fromEntries(rows.map((row) => [row.relname, 'DELETE, SELECT (tenant_id)']))
    expect(await grantsOf('bulkhead_eraser')).toEqual(expected)
  })
})
