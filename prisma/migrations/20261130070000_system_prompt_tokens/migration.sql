-- AlterTable
ALTER TABLE "agent_configs" ADD COLUMN     "system_prompt_tokens" INTEGER;

-- A draft's prompt and model change. Of versions that are there already nobody counted: it is null.
GRANT UPDATE (system_prompt_tokens) ON agent_configs TO bulkhead_app;
