-- CreateEnum
CREATE TYPE "tool_kind" AS ENUM ('HTTP', 'MCP');

-- CreateTable
CREATE TABLE "tools" (
    "id" UUID NOT NULL,
    "tenant_id" UUID NOT NULL,
    "kind" "tool_kind" NOT NULL,
    "name" TEXT NOT NULL,
    "description" TEXT NOT NULL,
    "definition" JSONB NOT NULL,
    "created_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "updated_at" TIMESTAMPTZ(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT "tools_pkey" PRIMARY KEY ("tenant_id","id")
);

-- CreateIndex
CREATE INDEX "tools_tenant_id_created_at_id_idx" ON "tools"("tenant_id", "created_at", "id");

-- CreateIndex
CREATE UNIQUE INDEX "tools_tenant_id_name_key" ON "tools"("tenant_id", "name");

-- Foreign keys are checked by a query, which forced policies would narrow.
ALTER TABLE "tenants" NO FORCE ROW LEVEL SECURITY;

-- AddForeignKey
ALTER TABLE "tools" ADD CONSTRAINT "tools_tenant_id_fkey" FOREIGN KEY ("tenant_id") REFERENCES "tenants"("id") ON DELETE RESTRICT ON UPDATE RESTRICT;

ALTER TABLE "tenants" FORCE ROW LEVEL SECURITY;

-- The walls, as every tenant table has them.
ALTER TABLE tools ENABLE ROW LEVEL SECURITY;
ALTER TABLE tools FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_access ON tools TO bulkhead_app, bulkhead_eraser USING (true) WITH CHECK (true);
CREATE POLICY tenant_wall ON tools AS RESTRICTIVE TO bulkhead_app, bulkhead_eraser
  USING (tenant_id = (SELECT nullif(current_setting('app.current_tenant', true), '')::uuid))
  WITH CHECK (tenant_id = (SELECT nullif(current_setting('app.current_tenant', true), '')::uuid));
CREATE TRIGGER fence BEFORE INSERT OR UPDATE OR DELETE ON tools FOR EACH STATEMENT EXECUTE FUNCTION refuse_fenced_writes();
GRANT DELETE, SELECT (tenant_id) ON tools TO bulkhead_eraser;

-- Configurations name tools by their names, which therefore stay.
GRANT SELECT, INSERT, DELETE, UPDATE (description, definition, updated_at) ON tools TO bulkhead_app;
