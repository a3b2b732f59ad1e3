-- A tenant that moves to another database takes its settings along.
GRANT UPDATE (time_zone, quota_thresholds, budget_behaviour, downgrade_model, downgrade_at) ON tenants TO bulkhead_platform;

-- Counters hold limits of a version. When the figures of a plan change, those of its tenants are outdated at once.
CREATE FUNCTION outdate_limits() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS $$
BEGIN
  UPDATE tenants SET limits_version = limits_version + 1 WHERE plan = NEW.plan;
  RETURN NULL;
END
$$;
REVOKE EXECUTE ON FUNCTION outdate_limits() FROM PUBLIC;
CREATE TRIGGER outdate_limits AFTER UPDATE ON plans FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION outdate_limits();

-- No role may move a row to another tenant.
REVOKE UPDATE ON quota_overrides FROM bulkhead_platform;
GRANT UPDATE (max, reason, expires_at, created_at) ON quota_overrides TO bulkhead_platform;
