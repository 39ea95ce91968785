-- compatible since 1
-- one statement, outside a transaction
-- Bytes of waiting requests whose input is large. There are few of them, so their sum is read each
-- second. In this order, so that no other index serves the sum by tenant.

CREATE INDEX CONCURRENTLY IF NOT EXISTS requests_large_waiting
ON requests (tenant, pool, endpoint) WHERE shown IS NOT NULL AND state IN ('queued', 'following');

-- another statement, outside a transaction
-- Bytes and open offers of a tenant's uploads, read from the index alone.

CREATE INDEX CONCURRENTLY IF NOT EXISTS uploads_bytes_of_tenant
ON uploads (tenant, state, size) WHERE state IN ('open', 'whole');
