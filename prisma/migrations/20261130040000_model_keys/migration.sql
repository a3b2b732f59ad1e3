-- AlterTable
ALTER TABLE "tenants" ADD COLUMN     "model_base_url" TEXT,
ADD COLUMN     "model_key_secret" TEXT;

-- The settings of a tenant, which it takes along when it moves to another database.
GRANT UPDATE (model_key_secret, model_base_url) ON tenants TO bulkhead_app, bulkhead_platform;

-- The platform finds data keys that an older master key wraps, and then works inside each tenant's scope. It sees no key, wrapped or not.
CREATE POLICY platform_access ON data_keys FOR SELECT TO bulkhead_platform USING (true);
GRANT SELECT (tenant_id, wrapping_key_id) ON data_keys TO bulkhead_platform;
