-- compatible since 1
-- one statement, outside a transaction
-- Unfinished requests by their drafts, which are not deleted before these have ended.

CREATE INDEX CONCURRENTLY IF NOT EXISTS requests_from_drafts ON requests (draft_key)
WHERE draft_key IS NOT NULL AND outcome IS NULL;
