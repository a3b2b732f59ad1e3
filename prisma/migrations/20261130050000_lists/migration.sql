-- A list that was not given is empty. Prisma reads NULL as an empty list and cannot say NOT NULL of one; statements of our own
-- read what is there. Row-level security, which binds the owner too, lets no UPDATE see the rows: a conversion does.
ALTER TABLE agent_configs
  ALTER COLUMN fallback_models TYPE text[] USING coalesce(fallback_models, '{}'),
  ALTER COLUMN enabled_tools TYPE text[] USING coalesce(enabled_tools, '{}'),
  ALTER COLUMN handoff_agent_ids TYPE uuid[] USING coalesce(handoff_agent_ids, '{}'),
  ALTER COLUMN fallback_models SET DEFAULT ARRAY[]::text[],
  ALTER COLUMN enabled_tools SET DEFAULT ARRAY[]::text[];
ALTER TABLE agent_configs
  ALTER COLUMN fallback_models SET NOT NULL,
  ALTER COLUMN enabled_tools SET NOT NULL,
  ALTER COLUMN handoff_agent_ids SET NOT NULL;
ALTER TABLE tenants ALTER COLUMN quota_thresholds SET NOT NULL;
