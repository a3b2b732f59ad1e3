-- CreateEnum
CREATE TYPE "history_policy" AS ENUM ('ALL', 'LAST_EXCHANGES', 'NONE');

-- AlterTable
ALTER TABLE "agents" ADD COLUMN     "canary_percent" INTEGER,
ADD COLUMN     "canary_version" INTEGER;

-- AlterTable
ALTER TABLE "agent_configs" ADD COLUMN     "budget_behaviour" "budget_behaviour",
ADD COLUMN     "handoff_agent_ids" UUID[] DEFAULT ARRAY[]::UUID[],
ADD COLUMN     "history_exchanges" INTEGER NOT NULL DEFAULT 10,
ADD COLUMN     "history_policy" "history_policy" NOT NULL DEFAULT 'ALL';

-- What a version did in a span of time is counted off the index that its foreign key needs in any case.
DROP INDEX "runs_tenant_id_agent_id_config_version_idx";
CREATE INDEX "runs_tenant_id_agent_id_config_version_created_at_idx" ON "runs"("tenant_id", "agent_id", "config_version", "created_at");
CREATE INDEX "agent_configs_tenant_id_agent_id_created_at_id_idx" ON "agent_configs"("tenant_id", "agent_id", "created_at", "id");

ALTER TABLE agents ADD CONSTRAINT whole_canary CHECK (
  num_nulls(canary_version, canary_percent) IN (0, 2) AND canary_percent BETWEEN 1 AND 99 AND canary_version <> active_version);

GRANT UPDATE (canary_version, canary_percent) ON agents TO bulkhead_app;
GRANT UPDATE (history_policy, history_exchanges, handoff_agent_ids, budget_behaviour) ON agent_configs TO bulkhead_app;
-- A conversation, and what is under way in it, is handed over to another agent.
GRANT UPDATE (agent_id) ON conversations, runs TO bulkhead_app;
