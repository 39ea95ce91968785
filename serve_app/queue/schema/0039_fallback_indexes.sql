-- compatible since 1
-- one statement, outside a transaction
-- The look for queued requests that would wait too long reads only those that may run elsewhere.

CREATE INDEX CONCURRENTLY IF NOT EXISTS requests_may_fall_back ON requests (pool, ranked_at, place)
WHERE state = 'queued' AND fallback IS NOT NULL AND fell_back_to IS NULL;

-- another statement, outside a transaction

CREATE INDEX CONCURRENTLY IF NOT EXISTS hosted_calls_unwanted ON hosted_calls (unwanted_at)
WHERE unwanted_at IS NOT NULL;
