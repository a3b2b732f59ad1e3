-- A worker asks for all runs that it executes at once, whose tenants they are of: whether each is still its own, and wanted.
GRANT SELECT (cancel_requested_at) ON runs TO bulkhead_platform;

-- And for those that it has by the database alone, without passing over the runs of all other workers.
CREATE INDEX runs_worker_id_idx ON runs (worker_id) WHERE status = 'RUNNING';
