-- compatible since 1
-- one statement, outside a transaction
-- Limits on running requests are counted by an index that has the running requests only. The second
-- condition keeps other statements off it, and `started_at` keeps these off the index of a tenant's
-- history, whatever the planner knew when it made the plan.

CREATE INDEX CONCURRENTLY IF NOT EXISTS requests_running_of_tenant ON requests (tenant, started_at)
WHERE state = 'running' AND tenant IS NOT NULL;

-- another statement, outside a transaction

CREATE INDEX CONCURRENTLY IF NOT EXISTS requests_running_of_endpoint
ON requests (endpoint, started_at) WHERE state = 'running' AND endpoint IS NOT NULL;

-- another statement, outside a transaction
-- How many more requests of a tenant or endpoint may run. Until the end of its transaction, no other
-- one gets a number for the same name: it gets -1, and waits for nothing, so no two can deadlock.
-- Each statement of a function sees what was committed before it, so the count has what the last
-- holder of the lock leased, also where the calling statement began before that commit.
--
-- The version before leases under one lock for all limits, which is held together with those of
-- this version, but not beside that version's.

CREATE OR REPLACE FUNCTION running_room(kind text, name text, most integer) RETURNS integer
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    found bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock_shared(1818848628)
        OR NOT pg_try_advisory_xact_lock(1818848628, hashtext(kind || ' ' || name)) THEN
        RETURN -1;
    END IF;
    IF kind = 'tenant' THEN
        SELECT count(*) INTO found FROM (
            SELECT FROM requests r WHERE r.state = 'running' AND r.tenant = name
            ORDER BY r.started_at LIMIT most) running;
    ELSE
        SELECT count(*) INTO found FROM (
            SELECT FROM requests r WHERE r.state = 'running' AND r.endpoint = name
            ORDER BY r.started_at LIMIT most) running;
    END IF;
    RETURN most - found;
END
$$;
