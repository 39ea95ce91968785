-- A tenant's ended requests of an endpoint, by their end, and apart those that did not succeed: a few
-- among many are found without reading the many.
CREATE INDEX requests_ended ON requests (tenant, endpoint, finished_at DESC, id DESC)
    WHERE finished_at IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX requests_unsuccessful ON requests (tenant, endpoint, finished_at DESC, id DESC)
    WHERE state IN ('failed', 'cancelled', 'expired') AND deleted_at IS NULL;

-- What is summed up of usage lines is read from the index alone.
CREATE INDEX usage_of_tenant_summed ON usage (tenant, at) INCLUDE (endpoint, run_s, steps, units);
DROP INDEX usage_of_tenant;
