-- A worker asks for all runs that it executes at once, whose tenants they are of: whether each is still its own, and wanted.
GRANT SELECT (cancel_requested_at) ON runs TO bulkhead_platform;
