-- compatible since 18
-- Pages of history go by id, which is the order of submits. Of a tenant's ended requests of an endpoint
-- (and, tenant by tenant, of all tenants'), and of those that did not succeed, few of them among many.
-- What has not ended is in none of these, so only an end writes to them.
CREATE INDEX requests_history ON requests (tenant, endpoint, id DESC)
    WHERE finished_at IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX requests_unsuccessful_of_tenant ON requests (tenant, id DESC)
    WHERE state IN ('failed', 'cancelled', 'expired') AND deleted_at IS NULL;
CREATE INDEX requests_unsuccessful_of_all ON requests (id DESC)
    WHERE state IN ('failed', 'cancelled', 'expired') AND deleted_at IS NULL;
