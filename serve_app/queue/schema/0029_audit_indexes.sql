-- compatible since 1
-- one statement, outside a transaction
-- The chain of the audit log in its order. No two entries have the same place.

CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS audit_sealed ON audit (sequence)
WHERE sequence IS NOT NULL;

-- another statement, outside a transaction

CREATE INDEX CONCURRENTLY IF NOT EXISTS audit_unsealed ON audit (id) WHERE sequence IS NULL;

-- another statement, outside a transaction

CREATE INDEX CONCURRENTLY IF NOT EXISTS audit_of_tenant ON audit (tenant, id) WHERE tenant <> '';
