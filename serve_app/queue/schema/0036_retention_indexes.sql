-- compatible since 1
-- one statement, outside a transaction
-- What is deleted by age, oldest first: each index has only rows that are still to be deleted.

CREATE INDEX CONCURRENTLY IF NOT EXISTS requests_with_prompts ON requests (tenant, id)
WHERE forgetting IS NULL AND outcome IS NOT NULL AND deleted_at IS NULL;

-- another statement, outside a transaction

CREATE INDEX CONCURRENTLY IF NOT EXISTS artifacts_of_tenant ON artifacts (tenant, request_id);

-- another statement, outside a transaction

CREATE INDEX CONCURRENTLY IF NOT EXISTS webhook_deliveries_ended ON webhook_deliveries (ended_at)
WHERE ended_at IS NOT NULL;
