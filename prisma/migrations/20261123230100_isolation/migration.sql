-- Who may see and do what. Run as bulkhead_owner, who owns everything here; the roles exist already (src/data/roles.ts).

REVOKE ALL ON SCHEMA public FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE bulkhead_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO bulkhead_app, bulkhead_platform, bulkhead_eraser;

-- The tenant wall: every row of every tenant table, for reading and for writing. It is restrictive, so that no policy
-- added later can open what it closes; a restrictive policy needs a permissive one to restrict.
-- After a transaction that set it, current_setting answers '' and not NULL, and ''::uuid would be an error: hence nullif.
-- The sub-select makes Postgres evaluate it once for each statement, not for each row.
DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY[
    'members', 'api_keys', 'agents', 'agent_configs', 'conversations', 'messages', 'runs', 'usage_records', 'idempotency_keys'
  ] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
    EXECUTE format('CREATE POLICY tenant_access ON %I TO bulkhead_app, bulkhead_eraser USING (true) WITH CHECK (true)', name);
    EXECUTE format($policy$
      CREATE POLICY tenant_wall ON %I AS RESTRICTIVE TO bulkhead_app, bulkhead_eraser
        USING (tenant_id = (SELECT nullif(current_setting('app.current_tenant', true), '')::uuid))
        WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.current_tenant', true), '')::uuid))
    $policy$, name);
    -- For bulkhead_eraser a DELETE is all there is, and its WHERE needs to read no other column.
    EXECUTE format('GRANT DELETE, SELECT (tenant_id) ON %I TO bulkhead_eraser', name);
  END LOOP;

  -- The user wall: when an end user acts, only that user's rows. Unset, the whole tenant is visible: its staff acts.
  FOREACH name IN ARRAY ARRAY['conversations', 'messages', 'runs'] LOOP
    EXECUTE format($policy$
      CREATE POLICY user_wall ON %I AS RESTRICTIVE TO bulkhead_app
        USING ((SELECT nullif(current_setting('app.current_user', true), '')) IS NULL
          OR user_id = (SELECT nullif(current_setting('app.current_user', true), '')))
        WITH CHECK ((SELECT nullif(current_setting('app.current_user', true), '')) IS NULL
          OR user_id = (SELECT nullif(current_setting('app.current_user', true), '')))
    $policy$, name);
  END LOOP;
END
$$;

-- A tenant's own row has its id where others have tenant_id. The platform creates and suspends tenants; it sees them all.
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenants FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_access ON tenants TO bulkhead_app USING (true) WITH CHECK (true);
CREATE POLICY tenant_wall ON tenants AS RESTRICTIVE TO bulkhead_app
  USING (id = (SELECT nullif(current_setting('app.current_tenant', true), '')::uuid))
  WITH CHECK (id = (SELECT nullif(current_setting('app.current_tenant', true), '')::uuid));
CREATE POLICY platform_access ON tenants TO bulkhead_platform USING (true) WITH CHECK (true);

-- The sweeper finds runs of all tenants by these columns, and then works inside each tenant's scope.
CREATE POLICY platform_access ON runs FOR SELECT TO bulkhead_platform USING (true);

-- What a tenant does. UPDATE is by column, so that no row can change its tenant or its id.
GRANT SELECT, UPDATE (default_agent_id) ON tenants TO bulkhead_app;
GRANT SELECT, INSERT, DELETE, UPDATE (name, role) ON members TO bulkhead_app;
GRANT SELECT, INSERT, UPDATE (revoked_at) ON api_keys TO bulkhead_app;
GRANT SELECT, INSERT, UPDATE (name, active_version, archived_at) ON agents TO bulkhead_app;
GRANT SELECT, INSERT, UPDATE (
  status, system_prompt, model, fallback_models, temperature, max_output_tokens, max_turns, enabled_tools, branding, published_at
) ON agent_configs TO bulkhead_app;
-- Drafts are edited and published. What is published never changes, and caches rely on it.
CREATE POLICY published_wall ON agent_configs AS RESTRICTIVE FOR UPDATE TO bulkhead_app USING (status = 'DRAFT') WITH CHECK (true);
GRANT SELECT, INSERT, DELETE, UPDATE (title, updated_at) ON conversations TO bulkhead_app;
GRANT SELECT, INSERT ON messages TO bulkhead_app;
GRANT SELECT, INSERT, UPDATE (
  status, epoch, worker_id, config_version, model, turns, finish_reason, failure_code, failure_message,
  cancel_requested_at, queued_at, started_at, finished_at
) ON runs TO bulkhead_app;
-- The ledger only grows.
GRANT SELECT, INSERT ON usage_records TO bulkhead_app;
GRANT SELECT, INSERT, DELETE ON idempotency_keys TO bulkhead_app;
GRANT SELECT ON prices TO bulkhead_app;

-- What the platform does. No column here holds a tenant's content.
GRANT SELECT, INSERT, UPDATE (plan, status) ON tenants TO bulkhead_platform;
GRANT SELECT (tenant_id, id, status, worker_id, epoch, queued_at) ON runs TO bulkhead_platform;
GRANT SELECT, INSERT, UPDATE, DELETE ON operator_keys, workers, prices TO bulkhead_platform;
