-- compatible since 1
-- one statement, outside a transaction
-- Requests with a limit on how long their files are kept, that had not ended when it was last looked.

CREATE INDEX CONCURRENTLY IF NOT EXISTS lifecycles_waiting ON lifecycles (request_id)
WHERE due_at IS NULL;
