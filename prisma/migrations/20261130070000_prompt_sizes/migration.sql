-- AlterTable
ALTER TABLE "agent_configs" ADD COLUMN     "context_window" INTEGER,
ADD COLUMN     "system_prompt_tokens" INTEGER;

-- A draft's prompt and model change. Of versions that are there already nobody counted: both are null.
GRANT UPDATE (system_prompt_tokens, context_window) ON agent_configs TO bulkhead_app;
