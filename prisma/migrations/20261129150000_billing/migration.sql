-- AlterEnum
ALTER TYPE "outbox_channel" ADD VALUE 'USAGE_FEED';

-- AlterTable
ALTER TABLE "tenants" ADD COLUMN     "past_time_zones" JSONB NOT NULL DEFAULT '[]';

-- AlterTable
ALTER TABLE "webhooks" ADD COLUMN     "events" TEXT[] DEFAULT ARRAY['NOTIFICATION']::TEXT[],
ADD COLUMN     "failing_since" TIMESTAMPTZ(3);

-- AlterTable
ALTER TABLE "outbox" ALTER COLUMN "notification_id" DROP NOT NULL;

-- AlterTable
ALTER TABLE "usage_records" ADD COLUMN     "correction" INTEGER NOT NULL DEFAULT 0,
ADD COLUMN     "corrects_id" UUID,
ADD COLUMN     "tenant_price_id" UUID;

-- AlterTable
ALTER TABLE "prices" ADD COLUMN     "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
ADD COLUMN     "created_by" TEXT NOT NULL DEFAULT 'Bulkhead';

-- AlterTable
ALTER TABLE "model_call_attempts" ADD COLUMN     "tenant_price_id" UUID;

-- CreateTable
CREATE TABLE "tenant_prices" (
    "id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "model" TEXT NOT NULL,
    "version" INTEGER NOT NULL,
    "input_nanos" BIGINT,
    "cached_input_nanos" BIGINT,
    "output_nanos" BIGINT,
    "margin_basis_points" INTEGER NOT NULL,
    "valid_from" TIMESTAMPTZ(3) NOT NULL,
    "valid_to" TIMESTAMPTZ(3),
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "tenant_prices_pkey" PRIMARY KEY ("tenant_id","id")
);

-- CreateTable
CREATE TABLE "credits" (
    "id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "amount_nanos" BIGINT NOT NULL,
    "currency" TEXT NOT NULL,
    "reason" TEXT NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "credits_pkey" PRIMARY KEY ("tenant_id","id")
);

-- CreateTable
CREATE TABLE "usage_rollups" (
    "tenant_id" UUID NOT NULL,
    "bucket" TIMESTAMPTZ(3) NOT NULL,
    "part" INTEGER NOT NULL,
    "model" TEXT,
    "agent_id" UUID,
    "config_version" INTEGER,
    "price_id" UUID,
    "tenant_price_id" UUID,
    "currency" TEXT,
    "is_correction" BOOLEAN,
    "estimated" BOOLEAN,
    "calls" BIGINT,
    "input_tokens" BIGINT,
    "cached_input_tokens" BIGINT,
    "output_tokens" BIGINT,
    "reasoning_tokens" BIGINT,
    "cost_nanos" BIGINT,

    CONSTRAINT "usage_rollups_pkey" PRIMARY KEY ("tenant_id","bucket","part")
);

-- DropIndex
DROP INDEX "outbox_due_at_idx";

-- CreateIndex
CREATE INDEX "outbox_channel_due_at_idx" ON "outbox"("channel", "due_at");

-- DropIndex
DROP INDEX "usage_records_tenant_id_run_id_turn_call_attempt_key";

-- CreateIndex
CREATE UNIQUE INDEX "usage_records_tenant_id_run_id_turn_call_attempt_correction_key" ON "usage_records"("tenant_id", "run_id", "turn", "call", "attempt", "correction");

-- CreateIndex
CREATE INDEX "usage_records_tenant_id_corrects_id_idx" ON "usage_records"("tenant_id", "corrects_id");

-- CreateIndex
CREATE INDEX "usage_records_tenant_id_tenant_price_id_idx" ON "usage_records"("tenant_id", "tenant_price_id");

-- CreateIndex
CREATE INDEX "model_call_attempts_tenant_id_tenant_price_id_idx" ON "model_call_attempts"("tenant_id", "tenant_price_id");

-- CreateIndex
CREATE UNIQUE INDEX "tenant_prices_tenant_id_model_version_key" ON "tenant_prices"("tenant_id", "model", "version");

-- CreateIndex
CREATE INDEX "credits_tenant_id_created_at_idx" ON "credits"("tenant_id", "created_at");

-- CreateIndex
CREATE INDEX "usage_rollups_part_bucket_idx" ON "usage_rollups"("part", "bucket");

-- Foreign keys are checked by a query, which forced policies would narrow.
ALTER TABLE "tenants" NO FORCE ROW LEVEL SECURITY;
ALTER TABLE "usage_records" NO FORCE ROW LEVEL SECURITY;
ALTER TABLE "model_call_attempts" NO FORCE ROW LEVEL SECURITY;

-- AddForeignKey
ALTER TABLE "tenant_prices" ADD CONSTRAINT "tenant_prices_tenant_id_fkey" FOREIGN KEY ("tenant_id") REFERENCES "tenants"("id") ON DELETE RESTRICT ON UPDATE RESTRICT;

-- AddForeignKey
ALTER TABLE "credits" ADD CONSTRAINT "credits_tenant_id_fkey" FOREIGN KEY ("tenant_id") REFERENCES "tenants"("id") ON DELETE RESTRICT ON UPDATE RESTRICT;

-- AddForeignKey
ALTER TABLE "usage_rollups" ADD CONSTRAINT "usage_rollups_tenant_id_fkey" FOREIGN KEY ("tenant_id") REFERENCES "tenants"("id") ON DELETE RESTRICT ON UPDATE RESTRICT;

-- AddForeignKey
ALTER TABLE "usage_records" ADD CONSTRAINT "usage_records_tenant_id_tenant_price_id_fkey" FOREIGN KEY ("tenant_id", "tenant_price_id") REFERENCES "tenant_prices"("tenant_id", "id") ON DELETE RESTRICT ON UPDATE RESTRICT;

-- AddForeignKey
ALTER TABLE "usage_records" ADD CONSTRAINT "usage_records_tenant_id_corrects_id_fkey" FOREIGN KEY ("tenant_id", "corrects_id") REFERENCES "usage_records"("tenant_id", "id") ON DELETE CASCADE ON UPDATE RESTRICT;

-- AddForeignKey
ALTER TABLE "model_call_attempts" ADD CONSTRAINT "model_call_attempts_tenant_id_tenant_price_id_fkey" FOREIGN KEY ("tenant_id", "tenant_price_id") REFERENCES "tenant_prices"("tenant_id", "id") ON DELETE RESTRICT ON UPDATE RESTRICT;

-- A model's versions follow one another in time. Whoever adds one adds it at the end.
ALTER TABLE prices ADD CONSTRAINT prices_sound CHECK (
  input_nanos >= 0 AND cached_input_nanos >= 0 AND output_nanos >= 0 AND version > 0 AND valid_to > valid_from);
ALTER TABLE tenant_prices ADD CONSTRAINT tenant_prices_sound CHECK (
  input_nanos >= 0 AND cached_input_nanos >= 0 AND output_nanos >= 0 AND version > 0 AND valid_to > valid_from
  AND margin_basis_points >= -10000
  AND num_nulls(input_nanos, cached_input_nanos, output_nanos) IN (0, 3)
  AND (model <> '*' OR input_nanos IS NULL));
ALTER TABLE webhooks ADD CONSTRAINT webhooks_events CHECK (
  events IS NOT NULL AND events <@ ARRAY['NOTIFICATION', 'USAGE'] AND events <> '{}');
ALTER TABLE credits ADD CONSTRAINT credits_positive CHECK (amount_nanos > 0);

-- A call used what it used; only a correction takes away.
ALTER TABLE usage_records ADD CONSTRAINT usage_records_sound CHECK (
  (correction = 0) = (corrects_id IS NULL) AND correction >= 0
  AND (correction > 0 OR (input_tokens >= 0 AND cached_input_tokens >= 0 AND output_tokens >= 0 AND reasoning_tokens >= 0
    AND cost_nanos >= 0)));

-- Part 0 holds nothing, all other parts everything that must be known.
ALTER TABLE usage_rollups ADD CONSTRAINT usage_rollups_sound CHECK (
  bucket = date_bin('15 minutes', bucket, '2000-01-01 00:00:00+00') AND part >= 0
  AND CASE part WHEN 0 THEN num_nonnulls(model, calls, cost_nanos) = 0
    ELSE num_nulls(model, agent_id, config_version, currency, is_correction, estimated, calls, input_tokens, cached_input_tokens,
      output_tokens, reasoning_tokens, cost_nanos) = 0 END);

-- Whatever enters the ledger, its quarter of an hour has to be summed. One call marks it; others find it marked, and wait for nobody.
-- A call that comes late may meet whoever is summing: it touches the mark, so that one of the two waits for the other. Once for all
-- that one statement enters, and always in the same order, so that two who enter much do not wait for each other.
CREATE FUNCTION mark_usage_buckets() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$
DECLARE
  late timestamptz := now() - interval '2 minutes';
BEGIN
  INSERT INTO usage_rollups (tenant_id, bucket, part)
    SELECT DISTINCT tenant_id, date_bin('15 minutes', created_at, '2000-01-01 00:00:00+00'), 0 FROM entered WHERE created_at > late
    ON CONFLICT DO NOTHING;
  IF EXISTS (SELECT FROM entered WHERE created_at <= late) THEN
    INSERT INTO usage_rollups (tenant_id, bucket, part)
      SELECT DISTINCT tenant_id, date_bin('15 minutes', created_at, '2000-01-01 00:00:00+00'), 0 FROM entered WHERE created_at <= late
      ORDER BY 1, 2
      ON CONFLICT (tenant_id, bucket, part) DO UPDATE SET part = excluded.part;
  END IF;
  RETURN NULL;
END
$$;
REVOKE EXECUTE ON FUNCTION mark_usage_buckets() FROM PUBLIC;
CREATE TRIGGER mark_buckets AFTER INSERT ON usage_records REFERENCING NEW TABLE AS entered
  FOR EACH STATEMENT EXECUTE FUNCTION mark_usage_buckets();

-- What the ledger has until now is summed as well.
INSERT INTO usage_rollups (tenant_id, bucket, part)
  SELECT DISTINCT tenant_id, date_bin('15 minutes', created_at, '2000-01-01 00:00:00+00'), 0 FROM usage_records;

ALTER TABLE "model_call_attempts" FORCE ROW LEVEL SECURITY;
ALTER TABLE "usage_records" FORCE ROW LEVEL SECURITY;
ALTER TABLE "tenants" FORCE ROW LEVEL SECURITY;

-- The walls, as every tenant table has them.
DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['tenant_prices', 'credits', 'usage_rollups'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
    EXECUTE format('CREATE POLICY tenant_access ON %I TO bulkhead_app, bulkhead_eraser USING (true) WITH CHECK (true)', name);
    EXECUTE format($policy$
      CREATE POLICY tenant_wall ON %I AS RESTRICTIVE TO bulkhead_app, bulkhead_eraser
        USING (tenant_id = (SELECT nullif(current_setting('app.current_tenant', true), '')::uuid))
        WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.current_tenant', true), '')::uuid))
    $policy$, name);
    EXECUTE format('CREATE TRIGGER fence BEFORE INSERT OR UPDATE OR DELETE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_fenced_writes()', name);
    EXECUTE format('GRANT DELETE, SELECT (tenant_id) ON %I TO bulkhead_eraser', name);
  END LOOP;
END
$$;

-- A tenant reads what it pays and what it was given; operators decide it. What was agreed is never changed, only followed by another.
GRANT SELECT ON tenant_prices, credits TO bulkhead_app;
CREATE POLICY platform_access ON tenant_prices TO bulkhead_platform USING (true) WITH CHECK (true);
CREATE POLICY platform_access ON credits TO bulkhead_platform USING (true) WITH CHECK (true);
GRANT SELECT, INSERT ON tenant_prices, credits TO bulkhead_platform;
REVOKE UPDATE, DELETE ON prices FROM bulkhead_platform;

-- Sums are made again and never changed; marks are touched.
GRANT SELECT, INSERT, DELETE, UPDATE (part) ON usage_rollups TO bulkhead_app;
-- Workers find what has to be summed, and then work inside each tenant's scope.
CREATE POLICY platform_access ON usage_rollups FOR SELECT TO bulkhead_platform USING (true);
GRANT SELECT (tenant_id, bucket, part) ON usage_rollups TO bulkhead_platform;

GRANT UPDATE (past_time_zones) ON tenants TO bulkhead_app, bulkhead_platform;

-- A usage event tells of no notification. Once it is delivered, the ledger is what is left of it.
ALTER TABLE outbox ADD CONSTRAINT outbox_origin CHECK (channel = 'WEBHOOK' OR (channel = 'EMAIL') = (notification_id IS NOT NULL));
GRANT DELETE ON outbox TO bulkhead_app;
-- A process delivers the messages of the channels that it has; what waits for one of them holds up none of another.
GRANT SELECT (channel) ON outbox TO bulkhead_platform;
-- Whoever delivers says how it goes. Whoever writes messages to webhooks locks them, so that none is deleted meanwhile, which takes a
-- right to change a column, too.
GRANT UPDATE (failing_since) ON webhooks TO bulkhead_app;
