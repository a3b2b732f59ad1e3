-- A cascade runs as the table's owner, also when the eraser's DELETE caused it: current_user does not tell who asked, the setting
-- `role` does. Only members of bulkhead_eraser can set it to that.
CREATE OR REPLACE FUNCTION refuse_fenced_writes() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$
DECLARE
  tenant uuid := nullif(current_setting('app.current_tenant', true), '')::uuid;
BEGIN
  IF tenant IS NULL OR current_setting('role') = 'bulkhead_eraser' THEN
    RETURN NULL;
  END IF;
  PERFORM pg_advisory_xact_lock_shared(hashtextextended(tenant::text, 0));
  IF EXISTS (SELECT FROM tenants WHERE id = tenant AND fenced_at IS NOT NULL) THEN
    RAISE EXCEPTION 'the tenant is not written to here' USING ERRCODE = 'BH001';
  END IF;
  RETURN NULL;
END
$$;
