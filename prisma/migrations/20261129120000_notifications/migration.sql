-- CreateEnum
CREATE TYPE "notification_kind" AS ENUM ('QUOTA_THRESHOLD_REACHED');

-- CreateEnum
CREATE TYPE "outbox_channel" AS ENUM ('EMAIL', 'WEBHOOK');

-- CreateEnum
CREATE TYPE "outbox_status" AS ENUM ('PENDING', 'DELIVERED', 'FAILED');

-- CreateTable
CREATE TABLE "notifications" (
    "id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "kind" "notification_kind" NOT NULL,
    "dedupe_key" TEXT NOT NULL,
    "title" TEXT NOT NULL,
    "body" TEXT NOT NULL,
    "details" JSONB NOT NULL DEFAULT '{}',
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "notifications_pkey" PRIMARY KEY ("tenant_id","id")
);

-- CreateTable
CREATE TABLE "webhooks" (
    "id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "url" TEXT NOT NULL,
    "description" TEXT,
    "ciphertext" BYTEA NOT NULL,
    "data_key_id" UUID NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "webhooks_pkey" PRIMARY KEY ("tenant_id","id")
);

-- CreateTable
CREATE TABLE "outbox" (
    "id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "channel" "outbox_channel" NOT NULL,
    "notification_id" UUID NOT NULL,
    "webhook_id" UUID,
    "payload" JSONB NOT NULL,
    "status" "outbox_status" NOT NULL DEFAULT 'PENDING',
    "attempts" INTEGER NOT NULL DEFAULT 0,
    "due_at" TIMESTAMPTZ(3) DEFAULT CURRENT_TIMESTAMP,
    "last_failure" TEXT,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "finished_at" TIMESTAMPTZ(3),

    CONSTRAINT "outbox_pkey" PRIMARY KEY ("tenant_id","id")
);

-- CreateIndex
CREATE INDEX "notifications_tenant_id_created_at_id_idx" ON "notifications"("tenant_id", "created_at", "id");

-- CreateIndex
CREATE UNIQUE INDEX "notifications_tenant_id_dedupe_key_key" ON "notifications"("tenant_id", "dedupe_key");

-- CreateIndex
CREATE INDEX "webhooks_tenant_id_created_at_id_idx" ON "webhooks"("tenant_id", "created_at", "id");

-- CreateIndex
CREATE INDEX "webhooks_tenant_id_data_key_id_idx" ON "webhooks"("tenant_id", "data_key_id");

-- CreateIndex
CREATE INDEX "outbox_tenant_id_notification_id_idx" ON "outbox"("tenant_id", "notification_id");

-- CreateIndex
CREATE INDEX "outbox_tenant_id_webhook_id_idx" ON "outbox"("tenant_id", "webhook_id");

-- CreateIndex
CREATE INDEX "outbox_due_at_idx" ON "outbox"("due_at");

-- Foreign keys are checked by a query, which forced policies would narrow.
ALTER TABLE "tenants" NO FORCE ROW LEVEL SECURITY;
ALTER TABLE "data_keys" NO FORCE ROW LEVEL SECURITY;

-- AddForeignKey
ALTER TABLE "notifications" ADD CONSTRAINT "notifications_tenant_id_fkey" FOREIGN KEY ("tenant_id") REFERENCES "tenants"("id") ON DELETE RESTRICT ON UPDATE RESTRICT;

-- AddForeignKey
ALTER TABLE "webhooks" ADD CONSTRAINT "webhooks_tenant_id_fkey" FOREIGN KEY ("tenant_id") REFERENCES "tenants"("id") ON DELETE RESTRICT ON UPDATE RESTRICT;

-- AddForeignKey
ALTER TABLE "webhooks" ADD CONSTRAINT "webhooks_tenant_id_data_key_id_fkey" FOREIGN KEY ("tenant_id", "data_key_id") REFERENCES "data_keys"("tenant_id", "id") ON DELETE RESTRICT ON UPDATE RESTRICT;

-- AddForeignKey
ALTER TABLE "outbox" ADD CONSTRAINT "outbox_tenant_id_fkey" FOREIGN KEY ("tenant_id") REFERENCES "tenants"("id") ON DELETE RESTRICT ON UPDATE RESTRICT;

-- AddForeignKey
ALTER TABLE "outbox" ADD CONSTRAINT "outbox_tenant_id_notification_id_fkey" FOREIGN KEY ("tenant_id", "notification_id") REFERENCES "notifications"("tenant_id", "id") ON DELETE RESTRICT ON UPDATE RESTRICT;

-- AddForeignKey
ALTER TABLE "outbox" ADD CONSTRAINT "outbox_tenant_id_webhook_id_fkey" FOREIGN KEY ("tenant_id", "webhook_id") REFERENCES "webhooks"("tenant_id", "id") ON DELETE CASCADE ON UPDATE RESTRICT;

ALTER TABLE "data_keys" FORCE ROW LEVEL SECURITY;
ALTER TABLE "tenants" FORCE ROW LEVEL SECURITY;

-- A webhook message says where it goes, and one that is over is due no more.
ALTER TABLE outbox ADD CONSTRAINT outbox_target CHECK ((channel = 'WEBHOOK') = (webhook_id IS NOT NULL));
ALTER TABLE outbox ADD CONSTRAINT outbox_due CHECK ((status = 'PENDING') = (due_at IS NOT NULL));

-- The walls, as every tenant table has them.
DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['notifications', 'webhooks', 'outbox'] LOOP
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

-- What was told stays told. Of a message only how its delivery goes changes.
GRANT SELECT, INSERT ON notifications TO bulkhead_app;
GRANT SELECT, INSERT, DELETE ON webhooks TO bulkhead_app;
GRANT SELECT, INSERT, UPDATE (status, attempts, due_at, last_failure, finished_at) ON outbox TO bulkhead_app;

-- Workers find what is due, and then work inside each tenant's scope.
CREATE POLICY platform_access ON outbox FOR SELECT TO bulkhead_platform USING (true);
GRANT SELECT (tenant_id, id, due_at) ON outbox TO bulkhead_platform;
