-- CreateEnum
CREATE TYPE "quota_limit" AS ENUM ('MESSAGES_PER_MINUTE', 'MESSAGES_PER_DAY', 'TOKENS_PER_MESSAGE', 'CONCURRENT_SESSIONS', 'MONTHLY_TOKENS');

-- CreateEnum
CREATE TYPE "budget_behaviour" AS ENUM ('END', 'PAUSE');

-- AlterTable
ALTER TABLE "runs" ADD COLUMN     "downgraded_from" TEXT;

-- AlterTable
ALTER TABLE "tenants" ADD COLUMN     "budget_behaviour" "budget_behaviour" NOT NULL DEFAULT 'END',
ADD COLUMN     "downgrade_at" INTEGER NOT NULL DEFAULT 95,
ADD COLUMN     "downgrade_model" TEXT,
ADD COLUMN     "limits_version" INTEGER NOT NULL DEFAULT 0,
ADD COLUMN     "quota_thresholds" INTEGER[] DEFAULT ARRAY[80, 95, 100]::INTEGER[],
ADD COLUMN     "time_zone" TEXT NOT NULL DEFAULT 'UTC';

-- CreateTable
CREATE TABLE "plans" (
    "plan" "plan" NOT NULL,
    "messages_per_minute" INTEGER NOT NULL,
    "messages_per_day" INTEGER NOT NULL,
    "tokens_per_message" INTEGER NOT NULL,
    "concurrent_sessions" INTEGER NOT NULL,
    "monthly_tokens" BIGINT NOT NULL,
    "weight" INTEGER NOT NULL,

    CONSTRAINT "plans_pkey" PRIMARY KEY ("plan")
);

-- CreateTable
CREATE TABLE "quota_overrides" (
    "tenant_id" UUID NOT NULL,
    "limit" "quota_limit" NOT NULL,
    "max" BIGINT NOT NULL,
    "reason" TEXT NOT NULL,
    "expires_at" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "quota_overrides_pkey" PRIMARY KEY ("tenant_id","limit")
);

-- Foreign keys are checked by a query, which the tenants' forced policies would narrow.
ALTER TABLE "tenants" NO FORCE ROW LEVEL SECURITY;

-- AddForeignKey
ALTER TABLE "quota_overrides" ADD CONSTRAINT "quota_overrides_tenant_id_fkey" FOREIGN KEY ("tenant_id") REFERENCES "tenants"("id") ON DELETE RESTRICT ON UPDATE RESTRICT;

ALTER TABLE "tenants" FORCE ROW LEVEL SECURITY;

-- Limits are positive; a limit of zero would be a suspension, which is another operation.
ALTER TABLE plans ADD CONSTRAINT plans_positive CHECK (
  messages_per_minute > 0 AND messages_per_day > 0 AND tokens_per_message > 0 AND concurrent_sessions > 0
  AND monthly_tokens > 0 AND weight > 0);
ALTER TABLE quota_overrides ADD CONSTRAINT quota_overrides_positive CHECK (max > 0);

INSERT INTO plans (plan, messages_per_minute, messages_per_day, tokens_per_message, concurrent_sessions, monthly_tokens, weight) VALUES
  ('FREE', 10, 100, 2000, 5, 500000, 1),
  ('PRO', 60, 5000, 8000, 50, 10000000, 2),
  ('ENTERPRISE', 300, 50000, 16000, 500, 100000000, 4);

-- The walls, as every tenant table has them.
ALTER TABLE quota_overrides ENABLE ROW LEVEL SECURITY;
ALTER TABLE quota_overrides FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_access ON quota_overrides TO bulkhead_app, bulkhead_eraser USING (true) WITH CHECK (true);
CREATE POLICY tenant_wall ON quota_overrides AS RESTRICTIVE TO bulkhead_app, bulkhead_eraser
  USING (tenant_id = (SELECT nullif(current_setting('app.current_tenant', true), '')::uuid))
  WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.current_tenant', true), '')::uuid));
CREATE TRIGGER fence BEFORE INSERT OR UPDATE OR DELETE ON quota_overrides
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_fenced_writes();
GRANT DELETE, SELECT (tenant_id) ON quota_overrides TO bulkhead_eraser;

-- A tenant reads what it may use; operators decide it.
CREATE POLICY platform_access ON quota_overrides TO bulkhead_platform USING (true) WITH CHECK (true);
GRANT SELECT ON quota_overrides, plans TO bulkhead_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON quota_overrides TO bulkhead_platform;
GRANT SELECT, UPDATE ON plans TO bulkhead_platform;
GRANT UPDATE (limits_version) ON tenants TO bulkhead_platform;

-- What a tenant's admins decide themselves.
GRANT UPDATE (limits_version, time_zone, quota_thresholds, budget_behaviour, downgrade_model, downgrade_at) ON tenants TO bulkhead_app;
GRANT UPDATE (downgraded_from) ON runs TO bulkhead_app;
