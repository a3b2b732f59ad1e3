-- CreateEnum
CREATE TYPE "audit_actor_kind" AS ENUM ('API_KEY', 'OPERATOR', 'SYSTEM');

-- CreateEnum
CREATE TYPE "export_status" AS ENUM ('READY', 'STREAMING', 'COMPLETED', 'FAILED');

-- CreateEnum
CREATE TYPE "move_phase" AS ENUM ('DRAINING', 'COPYING', 'SWITCHED', 'DONE');

-- AlterTable
ALTER TABLE "runs" ADD COLUMN     "api_key_id" UUID;

-- AlterTable
ALTER TABLE "tenants" ADD COLUMN     "access_version" INTEGER NOT NULL DEFAULT 0,
ADD COLUMN     "database_id" UUID,
ADD COLUMN     "fenced_at" TIMESTAMPTZ(3);

-- CreateTable
CREATE TABLE "audit_events" (
    "id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "actor_kind" "audit_actor_kind" NOT NULL,
    "actor_id" UUID,
    "actor_name" TEXT NOT NULL,
    "action" TEXT NOT NULL,
    "subject" TEXT NOT NULL,
    "subject_id" UUID,
    "details" JSONB NOT NULL DEFAULT '{}',
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "audit_events_pkey" PRIMARY KEY ("tenant_id","id")
);

-- CreateTable
CREATE TABLE "data_keys" (
    "id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "wrapped_key" BYTEA NOT NULL,
    "wrapping_key_id" TEXT NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "data_keys_pkey" PRIMARY KEY ("tenant_id","id")
);

-- CreateTable
CREATE TABLE "secrets" (
    "id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "name" TEXT NOT NULL,
    "ciphertext" BYTEA NOT NULL,
    "data_key_id" UUID NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "secrets_pkey" PRIMARY KEY ("tenant_id","id")
);

-- CreateTable
CREATE TABLE "user_pseudonyms" (
    "id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "user_id" TEXT NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "user_pseudonyms_pkey" PRIMARY KEY ("tenant_id","id")
);

-- CreateTable
CREATE TABLE "tenant_exports" (
    "id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "status" "export_status" NOT NULL DEFAULT 'READY',
    "api_key_id" UUID NOT NULL,
    "rows_total" INTEGER NOT NULL,
    "rows_sent" INTEGER NOT NULL DEFAULT 0,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "finished_at" TIMESTAMPTZ(3),
    "expires_at" TIMESTAMPTZ(3) NOT NULL,

    CONSTRAINT "tenant_exports_pkey" PRIMARY KEY ("tenant_id","id")
);

-- CreateTable
CREATE TABLE "operator_idempotency_keys" (
    "operator_id" UUID NOT NULL,
    "mutation" TEXT NOT NULL,
    "key" TEXT NOT NULL,
    "input_hash" BYTEA NOT NULL,
    "result_id" UUID NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "operator_idempotency_keys_pkey" PRIMARY KEY ("operator_id","mutation","key")
);

-- CreateTable
CREATE TABLE "erasures" (
    "id" UUID NOT NULL,
    "operator_id" UUID NOT NULL,
    "operator_name" TEXT NOT NULL,
    "requested_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "finished_at" TIMESTAMPTZ(3),
    "found" JSONB NOT NULL DEFAULT '{}',
    "erased" JSONB NOT NULL DEFAULT '{}',
    "retained" JSONB NOT NULL DEFAULT '{}',
    "backups_expire_at" TIMESTAMPTZ(3),

    CONSTRAINT "erasures_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "databases" (
    "id" UUID NOT NULL,
    "name" TEXT NOT NULL,
    "app_url" BYTEA NOT NULL,
    "platform_url" BYTEA NOT NULL,
    "admin_url" BYTEA NOT NULL,
    "key_id" TEXT NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "databases_pkey" PRIMARY KEY ("id")
);

-- CreateTable
CREATE TABLE "tenant_moves" (
    "id" UUID NOT NULL,
    "source_id" UUID,
    "target_id" UUID,
    "phase" "move_phase" NOT NULL DEFAULT 'DRAINING',
    "tables" JSONB NOT NULL DEFAULT '{}',
    "started_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "finished_at" TIMESTAMPTZ(3),

    CONSTRAINT "tenant_moves_pkey" PRIMARY KEY ("id")
);

-- CreateIndex
CREATE INDEX "audit_events_tenant_id_created_at_id_idx" ON "audit_events"("tenant_id", "created_at", "id");

-- CreateIndex
CREATE INDEX "data_keys_tenant_id_created_at_idx" ON "data_keys"("tenant_id", "created_at");

-- CreateIndex
CREATE INDEX "secrets_tenant_id_data_key_id_idx" ON "secrets"("tenant_id", "data_key_id");

-- CreateIndex
CREATE UNIQUE INDEX "secrets_tenant_id_name_key" ON "secrets"("tenant_id", "name");

-- CreateIndex
CREATE UNIQUE INDEX "user_pseudonyms_tenant_id_user_id_key" ON "user_pseudonyms"("tenant_id", "user_id");

-- CreateIndex
CREATE INDEX "tenant_exports_tenant_id_created_at_idx" ON "tenant_exports"("tenant_id", "created_at");

-- CreateIndex
CREATE INDEX "operator_idempotency_keys_created_at_idx" ON "operator_idempotency_keys"("created_at");

-- CreateIndex
CREATE INDEX "erasures_finished_at_idx" ON "erasures"("finished_at");

-- CreateIndex
CREATE UNIQUE INDEX "databases_name_key" ON "databases"("name");

-- Foreign keys are checked by a query, which the tenants' forced policies would narrow.
ALTER TABLE "tenants" NO FORCE ROW LEVEL SECURITY;

-- The ledger knows end users by a pseudonym from here on. It is never updated again: this once, its owner lifts the policies.
ALTER TABLE "usage_records" ADD COLUMN "user_pseudonym" UUID;
ALTER TABLE "usage_records" NO FORCE ROW LEVEL SECURITY;
INSERT INTO "user_pseudonyms" ("id", "tenant_id", "user_id")
  SELECT gen_random_uuid(), "tenant_id", "user_id" FROM "usage_records" WHERE "user_id" IS NOT NULL GROUP BY "tenant_id", "user_id";
UPDATE "usage_records" u SET "user_pseudonym" = p."id"
  FROM "user_pseudonyms" p WHERE p."tenant_id" = u."tenant_id" AND p."user_id" = u."user_id";
ALTER TABLE "usage_records" DROP COLUMN "user_id";
ALTER TABLE "usage_records" FORCE ROW LEVEL SECURITY;

-- AddForeignKey
ALTER TABLE "audit_events" ADD CONSTRAINT "audit_events_tenant_id_fkey" FOREIGN KEY ("tenant_id") REFERENCES "tenants"("id") ON DELETE RESTRICT ON UPDATE RESTRICT;

-- AddForeignKey
ALTER TABLE "data_keys" ADD CONSTRAINT "data_keys_tenant_id_fkey" FOREIGN KEY ("tenant_id") REFERENCES "tenants"("id") ON DELETE RESTRICT ON UPDATE RESTRICT;

-- AddForeignKey
ALTER TABLE "secrets" ADD CONSTRAINT "secrets_tenant_id_fkey" FOREIGN KEY ("tenant_id") REFERENCES "tenants"("id") ON DELETE RESTRICT ON UPDATE RESTRICT;

-- AddForeignKey
ALTER TABLE "secrets" ADD CONSTRAINT "secrets_tenant_id_data_key_id_fkey" FOREIGN KEY ("tenant_id", "data_key_id") REFERENCES "data_keys"("tenant_id", "id") ON DELETE RESTRICT ON UPDATE RESTRICT;

-- AddForeignKey
ALTER TABLE "user_pseudonyms" ADD CONSTRAINT "user_pseudonyms_tenant_id_fkey" FOREIGN KEY ("tenant_id") REFERENCES "tenants"("id") ON DELETE RESTRICT ON UPDATE RESTRICT;

-- AddForeignKey
ALTER TABLE "tenant_exports" ADD CONSTRAINT "tenant_exports_tenant_id_fkey" FOREIGN KEY ("tenant_id") REFERENCES "tenants"("id") ON DELETE RESTRICT ON UPDATE RESTRICT;

ALTER TABLE "tenants" FORCE ROW LEVEL SECURITY;

-- The walls of the new tables, as those of the old ones.
DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['audit_events', 'data_keys', 'secrets', 'user_pseudonyms', 'tenant_exports'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
    EXECUTE format('CREATE POLICY tenant_access ON %I TO bulkhead_app, bulkhead_eraser USING (true) WITH CHECK (true)', name);
    EXECUTE format($policy$
      CREATE POLICY tenant_wall ON %I AS RESTRICTIVE TO bulkhead_app, bulkhead_eraser
        USING (tenant_id = (SELECT nullif(current_setting('app.current_tenant', true), '')::uuid))
        WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.current_tenant', true), '')::uuid))
    $policy$, name);
    EXECUTE format('GRANT DELETE, SELECT (tenant_id) ON %I TO bulkhead_eraser', name);
  END LOOP;
END
$$;

CREATE POLICY user_wall ON user_pseudonyms AS RESTRICTIVE TO bulkhead_app
  USING ((SELECT nullif(current_setting('app.current_user', true), '')) IS NULL
    OR user_id = (SELECT nullif(current_setting('app.current_user', true), '')))
  WITH CHECK ((SELECT nullif(current_setting('app.current_user', true), '')) IS NULL
    OR user_id = (SELECT nullif(current_setting('app.current_user', true), '')));

-- What an operator does to a tenant is in the tenant's own audit log. The platform adds to it and cannot read it.
CREATE POLICY platform_access ON audit_events FOR INSERT TO bulkhead_platform WITH CHECK (true);

-- The audit log and the pseudonyms only grow.
GRANT SELECT, INSERT ON audit_events TO bulkhead_app;
GRANT SELECT, INSERT ON user_pseudonyms TO bulkhead_app;
GRANT SELECT, INSERT, UPDATE (wrapped_key, wrapping_key_id) ON data_keys TO bulkhead_app;
GRANT SELECT, INSERT, DELETE, UPDATE (ciphertext, data_key_id, updated_at) ON secrets TO bulkhead_app;
GRANT SELECT, INSERT, UPDATE (status, rows_sent, finished_at) ON tenant_exports TO bulkhead_app;
GRANT UPDATE (access_version) ON tenants TO bulkhead_app;

GRANT UPDATE (name, access_version, fenced_at, database_id, default_agent_id) ON tenants TO bulkhead_platform;
GRANT INSERT ON audit_events TO bulkhead_platform;
GRANT SELECT, INSERT, UPDATE, DELETE ON operator_idempotency_keys, erasures, databases, tenant_moves TO bulkhead_platform;

-- The fence: a tenant that is being moved away or erased is not written to, by whichever process, however old its view of the
-- world. Whoever fences a tenant sets fenced_at, and then takes this lock exclusively once: by then nobody who saw the tenant
-- unfenced is still writing. The eraser passes.
CREATE FUNCTION refuse_fenced_writes() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$
DECLARE
  tenant uuid := nullif(current_setting('app.current_tenant', true), '')::uuid;
BEGIN
  IF tenant IS NULL OR pg_has_role('bulkhead_eraser', 'USAGE') THEN
    RETURN NULL;
  END IF;
  PERFORM pg_advisory_xact_lock_shared(hashtextextended(tenant::text, 0));
  IF EXISTS (SELECT FROM tenants WHERE id = tenant AND fenced_at IS NOT NULL) THEN
    RAISE EXCEPTION 'the tenant is not written to here' USING ERRCODE = 'BH001';
  END IF;
  RETURN NULL;
END
$$;

DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY[
    'members', 'api_keys', 'agents', 'agent_configs', 'conversations', 'messages', 'runs', 'usage_records', 'idempotency_keys',
    'audit_events', 'data_keys', 'secrets', 'user_pseudonyms', 'tenant_exports'
  ] LOOP
    EXECUTE format('CREATE TRIGGER fence BEFORE INSERT OR UPDATE OR DELETE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_fenced_writes()', name);
  END LOOP;
END
$$;
