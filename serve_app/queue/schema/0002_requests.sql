-- Requests and everything that is written in one transaction with them. `json`, not `jsonb`: an input
-- comes back as it was sent, in its own order, and no string in it can be refused.

CREATE TABLE requests (
    id               uuid PRIMARY KEY,       -- version 7, made by the ingress
    place            bigint GENERATED ALWAYS AS IDENTITY,  -- its place in the queue, for ever
    tenant           text NOT NULL,
    endpoint         text NOT NULL,
    endpoint_digest  text NOT NULL,
    pool             text NOT NULL,
    priority         smallint NOT NULL,
    state            text NOT NULL CHECK (
        state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'expired')),
    input            json NOT NULL,
    attempt          integer NOT NULL DEFAULT 0,   -- number of the latest lease: the fence
    failures         integer NOT NULL DEFAULT 0,   -- attempts that ended by crash or retryable error
    unconfirmed      integer NOT NULL DEFAULT 0,   -- leases that ran out before a replica confirmed them
    confirmed        boolean NOT NULL DEFAULT false,  -- the present lease, by a report
    alone            boolean NOT NULL DEFAULT false,  -- after a crash: not in a batch with others
    cancel_requested boolean NOT NULL DEFAULT false,
    replica_id       text,
    actor_id         text,
    lease_until      timestamptz,
    start_by         timestamptz,            -- not started by then: expired; null once it has started
    created_at       timestamptz NOT NULL DEFAULT now(),
    started_at       timestamptz,
    finished_at      timestamptz,
    outcome          json,
    events           integer NOT NULL DEFAULT 0,   -- sequence of its latest event
    idempotency_key  text,
    body_digest      bytea,
    webhook_url      text,
    CHECK ((state = 'running') = (lease_until IS NOT NULL)),
    CHECK ((state IN ('queued', 'running')) = (outcome IS NULL))
) WITH (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_analyze_scale_factor = 0.02
);
CREATE INDEX requests_queued ON requests (pool, priority DESC, place) WHERE state = 'queued';
CREATE INDEX requests_of_lane ON requests (pool, priority, tenant, place) WHERE state = 'queued';
CREATE INDEX requests_start_by ON requests (start_by) WHERE state = 'queued' AND start_by IS NOT NULL;
CREATE INDEX requests_leased ON requests (lease_until) WHERE state = 'running';
CREATE INDEX requests_of_tenant ON requests (tenant, id DESC);
CREATE UNIQUE INDEX requests_idempotency ON requests (tenant, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

CREATE TABLE attempts (
    request_id uuid NOT NULL,
    attempt    integer NOT NULL,
    replica_id text NOT NULL,
    actor_id   text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz,
    ended      text CHECK (
        ended IN (
            'succeeded', 'failed', 'cancelled', 'retry', 'lost', 'stopped', 'hand_back', 'undo')),
    message    text NOT NULL DEFAULT '',
    run_s      double precision NOT NULL DEFAULT 0,
    steps      integer NOT NULL DEFAULT 0,
    units      double precision NOT NULL DEFAULT 0,
    PRIMARY KEY (request_id, attempt)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01);

CREATE TABLE events (
    request_id uuid NOT NULL,
    sequence   integer NOT NULL,             -- per request, from 1, without gaps
    at         timestamptz NOT NULL DEFAULT now(),
    level      text NOT NULL DEFAULT 'INFO',
    state      text,                         -- set when the event is a change of state
    message    text NOT NULL,
    PRIMARY KEY (request_id, sequence)
);

CREATE TABLE artifacts (
    key        text PRIMARY KEY,
    request_id uuid NOT NULL,
    attempt    integer NOT NULL,
    tenant     text NOT NULL,
    media_type text NOT NULL,
    size       bigint NOT NULL,              -- bytes
    sha256     text NOT NULL,                -- hex
    width      integer,
    height     integer,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz
);
CREATE INDEX artifacts_of_request ON artifacts (request_id);

CREATE TABLE usage (
    request_id uuid PRIMARY KEY,             -- one line each, however many attempts
    tenant     text NOT NULL,
    endpoint   text NOT NULL,
    state      text NOT NULL,
    attempt    integer NOT NULL,
    run_s      double precision NOT NULL,
    steps      integer NOT NULL,
    units      double precision NOT NULL,
    at         timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX usage_of_tenant ON usage (tenant, at);

CREATE TABLE webhook_deliveries (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    request_id uuid NOT NULL UNIQUE,
    tenant     text NOT NULL,
    url        text NOT NULL,
    state      text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'dead')),
    tries      integer NOT NULL DEFAULT 0,
    due_at     timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_vacuum_scale_factor = 0.01);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (due_at) WHERE state = 'pending';
