-- Baseline: all tables of the first release.
--
-- This file is frozen, because released databases have been made by it. Every change of the tables
-- is a new file, 0002_<name>.sql and so on (docs/adr/0027). schema.sql, which is generated, shows
-- the tables as they are after all migrations. The table `migrations` itself is created by
-- migrations.py.
--
-- Rules that hold for all tables:
-- * `json`, not `jsonb`: an input comes back as it was sent, in its own order, and no string in it
--   can be refused.
-- * Times are the database's clock. Durations are in seconds (`_s`), sizes in bytes.
-- * Tables whose rows change often leave room in each page (`fillfactor`) and are vacuumed early.


-- Tenants and API keys

-- A tenant: requests, files, usage and fair shares belong to one.
CREATE TABLE tenants (
    id          text PRIMARY KEY,
    name        text NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL DEFAULT now(),
    disabled_at timestamptz                  -- from then on its keys are refused
);

-- An API key. The secret itself is stored nowhere.
CREATE TABLE api_keys (
    id          text PRIMARY KEY,
    tenant      text NOT NULL REFERENCES tenants (id),
    digest      bytea NOT NULL,              -- SHA-256 of the secret
    scopes      text[] NOT NULL DEFAULT '{}',  -- api, priority, admin
    name        text NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz,                 -- null: it does not expire
    revoked_at  timestamptz,
    replay_undelivered boolean NOT NULL DEFAULT false  -- see `undelivered`
);
CREATE INDEX api_keys_of_tenant ON api_keys (tenant);

-- An action of an operator, written in the transaction of the action.
CREATE TABLE audit (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT now(),
    actor   text NOT NULL,                   -- id of an API key, or `operator`
    action  text NOT NULL,                   -- such as `key.create`
    subject text NOT NULL DEFAULT '',        -- such as the id of a request
    detail  json
);

-- A value that all ingress replicas share, such as the key that signs upload tickets.
CREATE TABLE installation (
    key   text PRIMARY KEY,
    value text NOT NULL                      -- hex
);


-- Requests

-- A request, from its submit until it is deleted.
--
-- State `following` is not visible to clients, who see `queued`. Requests of a tenant with the same
-- input are coalesced into a group, named by the id of its first request. One of them leads: it is
-- queued and runs like any other request. The rest are `following`: they wait for its outcome, and
-- no lease, count or estimate of queued requests sees them.
CREATE TABLE requests (
    id               uuid PRIMARY KEY,       -- version 7, made by the ingress
    place            bigint GENERATED ALWAYS AS IDENTITY,  -- order of submission; never changes
    tenant           text NOT NULL,
    endpoint         text NOT NULL,
    endpoint_digest  text NOT NULL,
    pool             text NOT NULL,
    priority         smallint NOT NULL,
    state            text NOT NULL,
    input            json NOT NULL,

    -- The lease
    attempt          integer NOT NULL DEFAULT 0,   -- number of the latest lease: the fence
    failures         integer NOT NULL DEFAULT 0,   -- attempts that ended by crash or retryable error
    unconfirmed      integer NOT NULL DEFAULT 0,   -- leases that ran out before a report confirmed them
    confirmed        boolean NOT NULL DEFAULT false,  -- a report has confirmed the present lease
    alone            boolean NOT NULL DEFAULT false,  -- on request, or after a crash: not in a batch
    cancel_requested boolean NOT NULL DEFAULT false,
    replica_id       text,
    actor_id         text,
    lease_until      timestamptz,
    start_by         timestamptz,            -- expires if not started by then; null once started
    created_at       timestamptz NOT NULL DEFAULT now(),
    started_at       timestamptz,
    finished_at      timestamptz,

    outcome          json,
    events           integer NOT NULL DEFAULT 0,   -- sequence of the latest row in `events`

    -- An idempotency key counts for its tenant and endpoint. `body_digest` tells a repeat from
    -- another request under the same key.
    idempotency_key  text,
    body_digest      bytea,
    webhook_url      text,

    -- The latest snapshot, in storage. The next attempt continues from it.
    snapshot         text,                   -- key of the object
    snapshot_step    integer,                -- steps that were done when it was taken

    -- The outcome cache
    reuse_digest     bytea,                  -- of endpoint and input, if its outcome may be reused
    reuses           uuid,                   -- the request whose outcome this one was given

    -- Fairness
    ranked_at        timestamptz NOT NULL DEFAULT now(),  -- order in its lane: submit and priority
    work             double precision NOT NULL DEFAULT 1,  -- steps * megapixels * images
    expected_s       double precision NOT NULL DEFAULT 1,  -- charged to its lane at a lease
    end_by           timestamptz,            -- expires if not ended by then

    previews         boolean NOT NULL DEFAULT true,  -- previews may be made

    -- Deletion
    deleted_at       timestamptz,            -- emptied: invisible, kept for its idempotency key only
    -- What is deleted next of a request that came with `X-Fal-Store-IO: 0`; null: nothing.
    forgetting       text CHECK (forgetting IN ('input', 'outcome', 'done')),

    webhook_origin   text,                   -- origin of the URLs in the webhook's body
    -- Retries left after timeouts, server errors and connection errors, if the request limits them;
    -- null: the installation's rule.
    retries_left     smallint[],

    -- Coalescing
    leads            uuid,                   -- the group for which it computes the outcome
    follows          uuid,                   -- the group whose outcome it waits for

    -- Short form of an input that is too large to be shown; null if `input` is shown. Everyone but
    -- the replica reads it instead of `input`, which lies outside the row and is then not read.
    shown            json,

    CONSTRAINT requests_state_check CHECK (
        state IN ('queued', 'following', 'running', 'succeeded', 'failed', 'cancelled', 'expired')),
    CONSTRAINT requests_check CHECK ((state = 'running') = (lease_until IS NOT NULL)),
    CONSTRAINT requests_outcome_check CHECK (
        (state IN ('queued', 'following', 'running')) = (outcome IS NULL)),
    CONSTRAINT requests_follows_check CHECK ((state = 'following') = (follows IS NOT NULL))
) WITH (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_analyze_scale_factor = 0.02
);

-- Deadlines and snapshots
CREATE INDEX requests_start_by ON requests (start_by) WHERE state = 'queued' AND start_by IS NOT NULL;
CREATE INDEX requests_leased ON requests (lease_until) WHERE state = 'running';
CREATE INDEX requests_snapshot ON requests (id) WHERE snapshot IS NOT NULL;

-- History. A page goes by id, which is the order of submits; analytics go by the end. Requests that
-- did not succeed have indexes of their own, so that a few among many are found without reading the
-- many. A request enters all but the first of these only when it ends.
CREATE INDEX requests_of_tenant ON requests (tenant, id DESC);
CREATE INDEX requests_ended ON requests (tenant, endpoint, finished_at DESC, id DESC)
    WHERE finished_at IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX requests_unsuccessful ON requests (tenant, endpoint, finished_at DESC, id DESC)
    WHERE state IN ('failed', 'cancelled', 'expired') AND deleted_at IS NULL;
CREATE INDEX requests_history ON requests (tenant, endpoint, id DESC)
    WHERE finished_at IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX requests_unsuccessful_of_tenant ON requests (tenant, id DESC)
    WHERE state IN ('failed', 'cancelled', 'expired') AND deleted_at IS NULL;
CREATE INDEX requests_unsuccessful_of_all ON requests (id DESC)
    WHERE state IN ('failed', 'cancelled', 'expired') AND deleted_at IS NULL;

-- Idempotency and the outcome cache
CREATE UNIQUE INDEX requests_idempotency ON requests (tenant, endpoint, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX requests_reusable ON requests (tenant, reuse_digest, id DESC)
    WHERE reuse_digest IS NOT NULL AND state = 'succeeded';

-- Leasing
CREATE INDEX requests_in_lane ON requests (pool, tenant, ranked_at, place) WHERE state = 'queued';
-- Suspects, which may have ended a replica. A replica runs one at a time, and every lease asks which
-- replicas run one. There is hardly ever any.
CREATE INDEX requests_suspect ON requests (pool, tenant, ranked_at, place)
    WHERE state = 'queued' AND alone AND failures > 0;
CREATE INDEX requests_suspect_running ON requests (replica_id)
    WHERE state = 'running' AND alone AND failures > 0;
-- The planner may have made a plan that it keeps when it knew nothing. Queued requests of a lane have
-- to be found by `requests_in_lane` even so: with one of the next two, a lane's requests would be
-- searched among all. So each of them has a second condition, which only the statements meant for it
-- imply, because they compare that column.
CREATE INDEX requests_oldest ON requests (pool, priority DESC, place)
    WHERE state = 'queued' AND priority IS NOT NULL;
-- Finds what is behind requests whose endpoint is at its limit, without reading past these.
CREATE INDEX requests_by_endpoint ON requests (pool, tenant, endpoint, ranked_at, place)
    WHERE state = 'queued' AND endpoint IS NOT NULL;

-- Deletion
CREATE INDEX requests_deleted ON requests (created_at) WHERE deleted_at IS NOT NULL;
CREATE INDEX requests_to_forget ON requests (forgetting, finished_at)
    WHERE forgetting IN ('input', 'outcome') AND finished_at IS NOT NULL;

-- Coalescing. An artifact is kept as long as any request refers to it (`requests_reusing`).
CREATE UNIQUE INDEX requests_leading ON requests (leads)
    WHERE leads IS NOT NULL AND outcome IS NULL;
CREATE INDEX requests_led ON requests (leads, id DESC)
    WHERE leads IS NOT NULL AND state = 'succeeded';
CREATE INDEX requests_wished ON requests (tenant, reuse_digest)
    WHERE leads IS NOT NULL AND outcome IS NULL;
CREATE INDEX requests_following ON requests (follows, ranked_at, place)
    WHERE state = 'following';
CREATE INDEX requests_following_start_by ON requests (start_by)
    WHERE state = 'following' AND start_by IS NOT NULL;
CREATE INDEX requests_reusing ON requests (reuses) WHERE reuses IS NOT NULL;

-- An attempt: a lease that was given, and how it ended.
CREATE TABLE attempts (
    request_id uuid NOT NULL,
    attempt    integer NOT NULL,
    replica_id text NOT NULL,
    actor_id   text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz,
    ended      text CHECK (                  -- null: it runs; `by_hand`: an operator ended it
        ended IN (
            'succeeded', 'failed', 'cancelled', 'expired', 'retry', 'lost', 'stopped', 'hand_back',
            'undo', 'by_hand')),
    message    text NOT NULL DEFAULT '',
    run_s      double precision NOT NULL DEFAULT 0,
    steps      integer NOT NULL DEFAULT 0,
    units      double precision NOT NULL DEFAULT 0,
    -- It ended without its files, and the files that it may have uploaded are in `unwanted`.
    collected  boolean NOT NULL DEFAULT false,
    PRIMARY KEY (request_id, attempt)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01);
CREATE INDEX attempts_to_collect ON attempts (request_id)
    WHERE ended NOT IN ('succeeded', 'undo') AND NOT collected;

-- A line of a request's own log; changes of its state are among them.
CREATE TABLE events (
    request_id uuid NOT NULL,
    sequence   integer NOT NULL,             -- per request, from 1, without gaps
    at         timestamptz NOT NULL DEFAULT now(),
    level      text NOT NULL DEFAULT 'INFO',
    state      text,                         -- set if the event is a change of state
    message    text NOT NULL,
    PRIMARY KEY (request_id, sequence)
);

-- What a request consumed. One row each, however many attempts it took. A frame of a realtime
-- session has a row too, under an id of its own.
CREATE TABLE usage (
    request_id uuid PRIMARY KEY,
    tenant     text NOT NULL,
    endpoint   text NOT NULL,
    state      text NOT NULL,
    attempt    integer NOT NULL,
    run_s      double precision NOT NULL,
    steps      integer NOT NULL,
    units      double precision NOT NULL,    -- the endpoint's billing unit
    at         timestamptz NOT NULL DEFAULT now()
);
-- Sums are read from the index alone.
CREATE INDEX usage_of_tenant_summed ON usage (tenant, at) INCLUDE (endpoint, run_s, steps, units);

-- A file of a request that succeeded.
CREATE TABLE artifacts (
    key        text PRIMARY KEY,             -- of the object in storage
    request_id uuid NOT NULL,
    attempt    integer NOT NULL,
    tenant     text NOT NULL,
    media_type text NOT NULL,
    size       bigint NOT NULL,
    sha256     text NOT NULL,                -- hex
    width      integer,
    height     integer,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz
);
CREATE INDEX artifacts_of_request ON artifacts (request_id);

-- A request whose client set the lifetime of its files. Written before the request itself: if the
-- request is never stored, the row is deleted a day later.
CREATE TABLE lifecycles (
    request_id uuid PRIMARY KEY,
    keep_s     double precision NOT NULL,    -- from the request's end
    created_at timestamptz NOT NULL DEFAULT now(),
    due_at     timestamptz                   -- null: the request had not ended when last looked at
);
CREATE INDEX lifecycles_due ON lifecycles (due_at);

-- A submit whose answer did not reach the client, for API keys that ask for this. The next submit
-- of the same body by the same key takes the row and gets the request.
CREATE TABLE undelivered (
    request_id  uuid PRIMARY KEY,
    api_key     text NOT NULL,
    body_digest bytea NOT NULL,
    at          timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX undelivered_of_key ON undelivered (api_key, body_digest, at);
CREATE INDEX undelivered_at ON undelivered (at);


-- Fairness, costs and pauses

-- A lane: a tenant in a pool. Lanes of equal virtual time go in the order in which they woke. A lane
-- that wakes takes the time of its pool at once, so its place among the lanes looked at first is
-- that of its turn.
CREATE TABLE fair_lanes (
    pool     text NOT NULL,
    tenant   text NOT NULL,
    active   boolean NOT NULL DEFAULT true,  -- a hint: something may be queued in it
    weight   double precision NOT NULL DEFAULT 1 CHECK (weight > 0),
    vtime    double precision NOT NULL DEFAULT 0,  -- virtual time: seconds it was given / weight
    rested   boolean NOT NULL DEFAULT true,  -- was idle, and was given nothing since
    served   double precision NOT NULL DEFAULT 0,  -- virtual time of the pool when last given a slot
    woken_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pool, tenant)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);
CREATE INDEX fair_lanes_served ON fair_lanes (pool, served);
CREATE INDEX fair_lanes_awake ON fair_lanes (pool, vtime, woken_at) WHERE active;

-- The cost model of an endpoint in a pool: seconds = fixed + rate * work, fitted to decayed sums.
CREATE TABLE costs (
    endpoint     text NOT NULL,
    pool         text NOT NULL,
    n            double precision NOT NULL,  -- requests; older ones count less
    work         double precision NOT NULL,
    seconds      double precision NOT NULL,
    work_work    double precision NOT NULL,
    work_seconds double precision NOT NULL,
    PRIMARY KEY (endpoint, pool)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);

-- An endpoint that an operator has paused or is draining. Usually there is none: every lease reads
-- this table.
CREATE TABLE halts (
    endpoint text PRIMARY KEY,
    kind     text NOT NULL CHECK (kind IN ('paused', 'draining')),
    at       timestamptz NOT NULL DEFAULT now(),
    actor    text NOT NULL                   -- id of an API key
);


-- Replicas. These two tables are not logged and may be lost with a crash of the server: the
-- replicas' own polls and reports rebuild them within seconds.

-- A replica, as its last poll or report said.
CREATE UNLOGGED TABLE replicas (
    replica_id text PRIMARY KEY,
    actor_id   text NOT NULL,
    pool       text NOT NULL,
    stage      text NOT NULL,
    detail     text NOT NULL DEFAULT '',
    slots      integer NOT NULL DEFAULT 1,   -- generations it runs at once
    busy_at    timestamptz,                  -- when it last held a lease
    seen_at    timestamptz NOT NULL DEFAULT now(),
    -- What it loads, and how many bytes of that are there: stage and share of a cold start.
    loading    json NOT NULL DEFAULT '[]'
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);

-- Progress and the newest preview of a running request.
CREATE UNLOGGED TABLE progress (
    request_id    uuid PRIMARY KEY,
    attempt       integer NOT NULL,
    stage         text NOT NULL,
    step          bigint NOT NULL,           -- in a download steps are bytes, often more than 2^31
    steps         bigint NOT NULL,
    at            timestamptz NOT NULL DEFAULT now(),
    rate          double precision NOT NULL DEFAULT 0,  -- steps per second; 0: not known
    preview       bytea,                     -- JPEG
    preview_step  bigint NOT NULL DEFAULT 0,  -- 0: there is none
    watched_until timestamptz                -- a client watches the previews
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);
-- Compression would not make a JPEG smaller. (PostgreSQL 15 has no clause for this above.)
ALTER TABLE progress ALTER COLUMN preview SET STORAGE EXTERNAL;


-- Files in storage

-- An object in storage that is to be deleted. A key enters when its upload ticket is issued and
-- leaves when the upload is used, so uploads of a replica that died are deleted as well.
CREATE TABLE unwanted (
    key    text PRIMARY KEY,
    due_at timestamptz NOT NULL              -- not before: it may still be uploaded
);
CREATE INDEX unwanted_due ON unwanted (due_at);

-- A file that a client uploads. The row is written before the object, so storage holds no object
-- without a row.
CREATE TABLE uploads (
    key        text PRIMARY KEY,             -- of the object in storage
    id         text NOT NULL,                -- 128 random bits: who knows them may send the content
    tenant     text NOT NULL,
    media_type text NOT NULL,
    keep_s     double precision,             -- lifetime; null: the tenant's retention
    parts_id   text,                         -- the storage's name of a multipart upload
    state      text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'whole', 'unwanted')),
    size       bigint,
    created_at timestamptz NOT NULL DEFAULT now(),
    due_at     timestamptz,                  -- deleted then; null: not by itself
    CHECK ((state = 'whole') <= (size IS NOT NULL))
);
CREATE INDEX uploads_due ON uploads (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX uploads_of_tenant ON uploads (tenant, created_at) WHERE state = 'whole';

-- A part of a multipart upload.
CREATE TABLE upload_parts (
    key    text NOT NULL REFERENCES uploads (key) ON DELETE CASCADE,
    number integer NOT NULL,
    etag   text NOT NULL,                    -- without quotes
    size   bigint NOT NULL,
    PRIMARY KEY (key, number)
);


-- Webhooks

-- A webhook of a request that has ended. A tenant and a host are a channel: a receiver that fails
-- delays its own channel only.
CREATE TABLE webhook_deliveries (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    request_id uuid NOT NULL UNIQUE,
    tenant     text NOT NULL,
    url        text NOT NULL,
    state      text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'dead')),
    tries      integer NOT NULL DEFAULT 0,   -- in this round
    due_at     timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    host       text NOT NULL GENERATED ALWAYS AS (
        coalesce(lower(substring(url from '^[a-z]+://(?:[^/?#@]*@)?([^/?#]+)')), '')) STORED,
    claims     integer NOT NULL DEFAULT 0,   -- grows with each claim: the fence
    since      timestamptz NOT NULL DEFAULT now(),  -- begin of this round of tries
    ended_at   timestamptz,
    body       bytea,                        -- the same in every try
    status     integer,                      -- HTTP status of the last try
    error      text NOT NULL DEFAULT ''      -- of the last try
) WITH (autovacuum_vacuum_scale_factor = 0.01);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (tenant, host, due_at)
    WHERE state = 'pending';
CREATE INDEX webhook_deliveries_since ON webhook_deliveries (since) WHERE state = 'pending';
CREATE INDEX webhook_deliveries_of_tenant ON webhook_deliveries (tenant, request_id DESC);
CREATE INDEX webhook_deliveries_dead ON webhook_deliveries (tenant, request_id DESC)
    WHERE state = 'dead';

-- A try of a delivery, in any of its rounds.
CREATE TABLE webhook_tries (
    delivery uuid NOT NULL REFERENCES webhook_deliveries (id) ON DELETE CASCADE,
    claim    integer NOT NULL,
    at       timestamptz NOT NULL DEFAULT now(),
    took_s   double precision NOT NULL,
    status   integer,                        -- HTTP status; null: there was no answer
    error    text NOT NULL DEFAULT '',
    PRIMARY KEY (delivery, claim)
);

-- A key that signs webhooks.
CREATE TABLE webhook_keys (
    kid        text PRIMARY KEY,
    seed       text NOT NULL,                -- of Ed25519, hex
    created_at timestamptz NOT NULL DEFAULT now(),
    signs_from timestamptz NOT NULL          -- receivers learn the key before it signs
);
