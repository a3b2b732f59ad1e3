-- AlterEnum
ALTER TYPE "notification_kind" ADD VALUE 'APPROVAL_REQUESTED';

-- CreateEnum
CREATE TYPE "tool_call_status" AS ENUM ('INTENDED', 'WAITING', 'APPROVED', 'STARTED', 'AMBIGUOUS', 'COMPLETED', 'FAILED', 'REFUSED', 'REJECTED', 'EXPIRED', 'CANCELLED');

-- CreateTable
CREATE TABLE "tool_calls" (
    "id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "run_id" UUID NOT NULL,
    "user_id" TEXT,
    "turn" INTEGER NOT NULL,
    "place" INTEGER NOT NULL,
    "call_id" TEXT NOT NULL,
    "name" TEXT NOT NULL,
    "arguments" TEXT NOT NULL,
    "arguments_hash" TEXT NOT NULL,
    "status" "tool_call_status" NOT NULL,
    "epoch" INTEGER,
    "result" TEXT,
    "expires_at" TIMESTAMPTZ(3),
    "decided_at" TIMESTAMPTZ(3),
    "decided_by" TEXT,
    "reason" TEXT,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "started_at" TIMESTAMPTZ(3),
    "finished_at" TIMESTAMPTZ(3),

    CONSTRAINT "tool_calls_pkey" PRIMARY KEY ("tenant_id","id")
);

-- CreateIndex
CREATE INDEX "tool_calls_tenant_id_finished_at_created_at_id_idx" ON "tool_calls"("tenant_id", "finished_at", "created_at", "id");

-- CreateIndex
CREATE UNIQUE INDEX "tool_calls_tenant_id_run_id_turn_place_key" ON "tool_calls"("tenant_id", "run_id", "turn", "place");

-- Foreign keys are checked by a query, which forced policies would narrow.
ALTER TABLE "tenants" NO FORCE ROW LEVEL SECURITY;
ALTER TABLE "runs" NO FORCE ROW LEVEL SECURITY;

-- AddForeignKey
ALTER TABLE "tool_calls" ADD CONSTRAINT "tool_calls_tenant_id_fkey" FOREIGN KEY ("tenant_id") REFERENCES "tenants"("id") ON DELETE RESTRICT ON UPDATE RESTRICT;

-- AddForeignKey
ALTER TABLE "tool_calls" ADD CONSTRAINT "tool_calls_tenant_id_run_id_fkey" FOREIGN KEY ("tenant_id", "run_id") REFERENCES "runs"("tenant_id", "id") ON DELETE CASCADE ON UPDATE RESTRICT;

ALTER TABLE "runs" FORCE ROW LEVEL SECURITY;
ALTER TABLE "tenants" FORCE ROW LEVEL SECURITY;

-- The walls, as every tenant table has them, and the wall between end users.
ALTER TABLE tool_calls ENABLE ROW LEVEL SECURITY;
ALTER TABLE tool_calls FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_access ON tool_calls TO bulkhead_app, bulkhead_eraser USING (true) WITH CHECK (true);
CREATE POLICY tenant_wall ON tool_calls AS RESTRICTIVE TO bulkhead_app, bulkhead_eraser
  USING (tenant_id = (SELECT nullif(current_setting('app.current_tenant', true), '')::uuid))
  WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.current_tenant', true), '')::uuid));
CREATE POLICY user_wall ON tool_calls AS RESTRICTIVE TO bulkhead_app
  USING ((SELECT nullif(current_setting('app.current_user', true), '')) IS NULL
    OR user_id = (SELECT nullif(current_setting('app.current_user', true), '')))
  WITH CHECK ((SELECT nullif(current_setting('app.current_user', true), '')) IS NULL
    OR user_id = (SELECT nullif(current_setting('app.current_user', true), '')));
CREATE TRIGGER fence BEFORE INSERT OR UPDATE OR DELETE ON tool_calls
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_fenced_writes();

-- What is to be called, and with what, never changes: it is what somebody agreed to.
GRANT SELECT, INSERT, UPDATE (status, epoch, result, expires_at, decided_at, decided_by, reason, started_at, finished_at)
  ON tool_calls TO bulkhead_app;
GRANT DELETE, SELECT (tenant_id) ON tool_calls TO bulkhead_eraser;
ALTER TABLE tool_calls ADD CONSTRAINT tool_calls_hash CHECK (
  arguments_hash = encode(sha256(convert_to(arguments, 'UTF8')), 'hex'));
-- What is over says so, and what is not does not.
ALTER TABLE tool_calls ADD CONSTRAINT tool_calls_finished CHECK (
  CASE WHEN status IN ('INTENDED', 'WAITING', 'APPROVED', 'STARTED') THEN finished_at IS NULL
    WHEN status <> 'AMBIGUOUS' THEN finished_at IS NOT NULL ELSE true END);
