-- CreateTable
CREATE TABLE "model_call_attempts" (
    "tenant_id" UUID NOT NULL,
    "run_id" UUID NOT NULL,
    "turn" INTEGER NOT NULL,
    "call" INTEGER NOT NULL,
    "attempt" INTEGER NOT NULL,
    "conversation_id" UUID NOT NULL,
    "user_pseudonym" UUID,
    "agent_id" UUID NOT NULL,
    "config_version" INTEGER NOT NULL,
    "model" TEXT NOT NULL,
    "price_id" UUID,
    "input_tokens" INTEGER NOT NULL,
    "output_bound" INTEGER NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "model_call_attempts_pkey" PRIMARY KEY ("tenant_id","run_id","turn","call","attempt")
);

-- CreateIndex
CREATE INDEX "model_call_attempts_price_id_idx" ON "model_call_attempts"("price_id");

-- Foreign keys are checked by a query, which the tenants' forced policies would narrow.
ALTER TABLE "tenants" NO FORCE ROW LEVEL SECURITY;

-- AddForeignKey
ALTER TABLE "model_call_attempts" ADD CONSTRAINT "model_call_attempts_tenant_id_fkey" FOREIGN KEY ("tenant_id") REFERENCES "tenants"("id") ON DELETE RESTRICT ON UPDATE RESTRICT;

-- AddForeignKey
ALTER TABLE "model_call_attempts" ADD CONSTRAINT "model_call_attempts_price_id_fkey" FOREIGN KEY ("price_id") REFERENCES "prices"("id") ON DELETE RESTRICT ON UPDATE RESTRICT;

ALTER TABLE "tenants" FORCE ROW LEVEL SECURITY;

-- The walls, as every tenant table has them.
ALTER TABLE model_call_attempts ENABLE ROW LEVEL SECURITY;
ALTER TABLE model_call_attempts FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_access ON model_call_attempts TO bulkhead_app, bulkhead_eraser USING (true) WITH CHECK (true);
CREATE POLICY tenant_wall ON model_call_attempts AS RESTRICTIVE TO bulkhead_app, bulkhead_eraser
  USING (tenant_id = (SELECT nullif(current_setting('app.current_tenant', true), '')::uuid))
  WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.current_tenant', true), '')::uuid));
CREATE TRIGGER fence BEFORE INSERT OR UPDATE OR DELETE ON model_call_attempts
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_fenced_writes();

-- An attempt is noted and removed, never changed.
GRANT SELECT, INSERT, DELETE ON model_call_attempts TO bulkhead_app;
GRANT DELETE, SELECT (tenant_id) ON model_call_attempts TO bulkhead_eraser;

-- The sweeper finds attempts that nobody is left to report, and then works inside each tenant's scope.
CREATE POLICY platform_access ON model_call_attempts FOR SELECT TO bulkhead_platform USING (true);
GRANT SELECT (tenant_id, run_id, attempt, created_at) ON model_call_attempts TO bulkhead_platform;
