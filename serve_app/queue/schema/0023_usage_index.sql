-- compatible since 1
-- one statement, outside a transaction
-- Sums of usage are read from an index alone, also by key and with what was billed.

CREATE INDEX CONCURRENTLY IF NOT EXISTS usage_of_tenant_billed ON usage (tenant, at)
INCLUDE (endpoint, state, key_id, run_s, steps, units, images, megapixels, price, billed, amount);

-- another statement, outside a transaction

DROP INDEX CONCURRENTLY IF EXISTS usage_of_tenant_summed;

-- another statement, outside a transaction

-- What counts towards a budget and has ended, of which a submit reads the last minutes.

CREATE INDEX CONCURRENTLY IF NOT EXISTS usage_reserved ON usage (tenant, at)
INCLUDE (submitted_at, reserved, amount) WHERE reserved IS NOT NULL;
