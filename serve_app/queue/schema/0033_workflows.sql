-- compatible since 1
-- one statement, outside a transaction
-- Workflows: definitions that tenants register, and the steps of requests to them. The version before has no
-- endpoint for them; requests to them that are stored wait for this version.

CREATE TABLE IF NOT EXISTS workflows (
    tenant     text NOT NULL,
    name       text NOT NULL,
    definition json NOT NULL,
    source     json NOT NULL,          -- as it was sent
    public     boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant, name)
);

-- another statement, outside a transaction
-- Requests to workflows that have started, each with the definition that it runs; null: the workflow was deleted
-- before. ended_at: all its steps have ended too.

CREATE TABLE IF NOT EXISTS workflow_runs (
    request_id uuid PRIMARY KEY,
    tenant     text NOT NULL,
    definition json,
    started_at timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz
) WITH (fillfactor = 80);

-- another statement, outside a transaction

CREATE INDEX CONCURRENTLY IF NOT EXISTS workflow_runs_active ON workflow_runs (started_at, request_id)
WHERE ended_at IS NULL;

-- another statement, outside a transaction

CREATE INDEX CONCURRENTLY IF NOT EXISTS workflow_runs_of_tenant ON workflow_runs (tenant);

-- another statement, outside a transaction
-- sending: its request has an id, and may be stored; sent: it is stored.

CREATE TABLE IF NOT EXISTS workflow_steps (
    run_id     uuid NOT NULL REFERENCES workflow_runs ON DELETE CASCADE,
    node       text NOT NULL,
    item       integer NOT NULL,
    app        text NOT NULL,
    request_id uuid NOT NULL,
    state      text NOT NULL DEFAULT 'sending' CHECK (state IN ('sending', 'sent', 'ended')),
    input      json,
    outcome    json,
    PRIMARY KEY (run_id, node, item)
) WITH (fillfactor = 70);

-- another statement, outside a transaction

CREATE INDEX CONCURRENTLY IF NOT EXISTS workflow_steps_of_request ON workflow_steps (request_id);

-- another statement, outside a transaction

CREATE INDEX CONCURRENTLY IF NOT EXISTS workflow_steps_unended ON workflow_steps (run_id) WHERE state <> 'ended';

-- another statement, outside a transaction
-- A request to a workflow uses no slot. If it counted for its tenant's limit of running requests, a workflow would
-- wait for its own steps forever. While the version before runs beside this one, its periodic look for tenants at
-- their limit reads the running requests without this index.

CREATE INDEX CONCURRENTLY IF NOT EXISTS requests_counted_of_tenant ON requests (tenant, started_at)
WHERE state = 'running' AND tenant IS NOT NULL AND pool <> 'workflows';

-- another statement, outside a transaction

DROP INDEX CONCURRENTLY IF EXISTS requests_running_of_tenant;

-- another statement, outside a transaction

ALTER INDEX requests_counted_of_tenant RENAME TO requests_running_of_tenant;

-- another statement, outside a transaction

CREATE OR REPLACE FUNCTION count_running(
    of_kind text, of_name text, started_from timestamptz, boundary timestamptz, most integer,
    OUT total integer, OUT before integer, OUT first timestamptz)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF of_kind = 'tenant' THEN
        SELECT count(*), count(*) FILTER (WHERE x.started_at < boundary), min(x.started_at)
        INTO total, before, first FROM (
            SELECT r.started_at FROM requests r
            WHERE r.state = 'running' AND r.tenant = of_name AND r.started_at >= started_from
              AND r.pool <> 'workflows'
            ORDER BY r.started_at LIMIT most) x;
    ELSE
        SELECT count(*), count(*) FILTER (WHERE x.started_at < boundary), min(x.started_at)
        INTO total, before, first FROM (
            SELECT r.started_at FROM requests r
            WHERE r.state = 'running' AND r.endpoint = of_name AND r.started_at >= started_from
            ORDER BY r.started_at LIMIT most) x;
    END IF;
END
$$;
