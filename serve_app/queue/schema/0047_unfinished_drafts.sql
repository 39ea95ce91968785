-- compatible since 1
-- one statement, outside a transaction
-- Bytes of a tenant's drafts to come are read from an index alone.

CREATE INDEX CONCURRENTLY IF NOT EXISTS requests_with_drafts ON requests (tenant) INCLUDE (draft_bytes)
WHERE draft_bytes IS NOT NULL AND outcome IS NULL;
