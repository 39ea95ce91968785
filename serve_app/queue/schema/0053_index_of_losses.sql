-- compatible since 1
-- one statement, outside a transaction
-- Only attempts that their replica did not bring to an end have a node.

CREATE INDEX CONCURRENTLY IF NOT EXISTS attempts_lost ON attempts (ended_at) WHERE node IS NOT NULL;
