-- The fence is looked at once for each transaction and tenant, instead of for each statement and each table that it writes to: who has passed
-- holds the lock until the transaction ends, so that nobody fences the tenant meanwhile. That it has passed is a setting local to the
-- transaction, which goes with the lock: when the transaction ends, or rolls back to a savepoint before it.
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
  PERFORM set_config('app.unfenced_tenant', tenant::text, true);
  RETURN NULL;
END
$$;

DO $$
DECLARE
  fenced regclass;
BEGIN
  FOR fenced IN SELECT tgrelid::regclass FROM pg_trigger WHERE tgname = 'fence' LOOP
    EXECUTE format('DROP TRIGGER fence ON %s', fenced);
    EXECUTE format($trigger$
      CREATE TRIGGER fence BEFORE INSERT OR UPDATE OR DELETE ON %s FOR EACH STATEMENT
        WHEN (current_setting('app.unfenced_tenant', true) IS DISTINCT FROM current_setting('app.current_tenant', true))
        EXECUTE FUNCTION refuse_fenced_writes()
    $trigger$, fenced);
  END LOOP;
END
$$;
