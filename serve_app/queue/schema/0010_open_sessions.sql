-- compatible since 1
-- one statement, outside a transaction
-- Open realtime sessions of a tenant (priority 3), counted when one more begins.

CREATE INDEX CONCURRENTLY IF NOT EXISTS requests_open_sessions ON requests (tenant, pool)
WHERE priority = 3 AND state IN ('queued', 'running');
