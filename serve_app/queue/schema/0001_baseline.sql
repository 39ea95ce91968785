-- Baseline: all tables of the first release.
--
-- The file is frozen once 0.1.0 is released, because databases have been made by it. Every later
-- change of the tables is a new file, 0002_<name>.sql and so on (docs/adr/0027). The table
-- `migrations` itself is created by migrations.py.
--
-- Rules that hold for all tables:
-- * `json`, not `jsonb`: an input comes back as it was sent, in its own order, and no string in it
--   can be refused.
-- * Times are the database's clock. Durations are in seconds (`_s`), sizes in bytes. A `digest` is a
--   SHA-256.
-- * Who made or changed a row (`actor`, `created_by`, `changed_by`) is the id of an API key.
-- * Tables whose rows change often leave room in each page (`fillfactor`) and are vacuumed early.
-- * A table that is not logged may be lost with a crash of the server: replicas fill it again.
-- * What belongs to a request, an upload or a file is deleted by a trigger, so that no statement that
--   deletes one can forget it.


-- Tenants and API keys

-- A tenant: requests, files, usage and fair shares belong to one.
CREATE TABLE tenants (
    id          text PRIMARY KEY,
    name        text NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL DEFAULT now(),
    changed_at  timestamptz NOT NULL DEFAULT now(),
    disabled_at timestamptz,                 -- from then on its keys are refused
    limits      jsonb NOT NULL DEFAULT '{}'  -- of TenantLimits: they come before those of the settings
);

-- An API key. The secret itself is stored nowhere.
CREATE TABLE api_keys (
    id           text PRIMARY KEY,
    tenant       text NOT NULL REFERENCES tenants (id),
    digest       bytea NOT NULL,             -- of the secret
    scopes       text[] NOT NULL DEFAULT '{}',
    endpoints    text[] NOT NULL DEFAULT '{}',  -- patterns of those that it may use; empty: all
    name         text NOT NULL DEFAULT '',
    person       text NOT NULL DEFAULT '',   -- who signed in; empty for a key of a program
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,                -- null: it does not expire
    revoked_at   timestamptz,
    last_used_at timestamptz,
    successor    text,                       -- of a key that was rotated
    replay_undelivered boolean NOT NULL DEFAULT false  -- see `undelivered`
);
CREATE INDEX api_keys_of_tenant ON api_keys (tenant);

-- A one-time link that opens the page with a key of its own.
CREATE TABLE sign_in_links (
    digest     bytea PRIMARY KEY,            -- of the token
    key_id     text NOT NULL,                -- whose rights the new key gets
    expires_at timestamptz NOT NULL
);
CREATE INDEX sign_in_links_by_expiry ON sign_in_links (expires_at);

-- A deletion of a tenant. Until it has ended, it has a job.
CREATE TABLE tenant_deletions (
    tenant   text PRIMARY KEY,
    asked_at timestamptz NOT NULL,
    actor    text NOT NULL,
    kept_as  text,               -- tenant of its sums of usage afterwards; null: they are deleted
    ended_at timestamptz
);

-- A tenant that is being deleted cannot be enabled.
CREATE FUNCTION keep_disabled() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM tenant_deletions d WHERE d.tenant = OLD.id AND d.ended_at IS NULL) THEN
        NEW.disabled_at := coalesce(OLD.disabled_at, now());
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER keep_disabled_until_deleted BEFORE UPDATE OF disabled_at ON tenants
    FOR EACH ROW WHEN (NEW.disabled_at IS NULL) EXECUTE FUNCTION keep_disabled();

-- A secret by its name, encrypted with a key of the installation.
CREATE TABLE secrets (
    owner      text NOT NULL,                -- a tenant; empty: the installation
    name       text NOT NULL,
    sealed     bytea NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    changed_by text NOT NULL,
    PRIMARY KEY (owner, name)
);


-- Audit log

-- An action, written in its own transaction. The log is a chain of hashes: a task of one ingress
-- process seals entries after their commit. It numbers them without gaps, in the order in which it
-- sees them, and writes the hash of each, which covers the hash of the entry before.
CREATE TABLE audit (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       timestamptz NOT NULL DEFAULT now(),
    actor    text NOT NULL,                  -- id of an API key, or `operator`
    address  text NOT NULL DEFAULT '',       -- of the client; empty where no client acts
    action   text NOT NULL,                  -- such as `key.create`
    subject  text NOT NULL DEFAULT '',       -- such as the id of a request
    detail   json,
    sequence bigint,                         -- place in the chain, from 1; null: not sealed yet
    tenant   text,                           -- that it is about; empty: none. Set when it is sealed
    previous text,                           -- hash of the entry before; of the first one 64 zeros
    hash     text                            -- SHA-256, hex
);
CREATE UNIQUE INDEX audit_sealed ON audit (sequence) WHERE sequence IS NOT NULL;
CREATE INDEX audit_unsealed ON audit (id) WHERE sequence IS NULL;
CREATE INDEX audit_of_tenant ON audit (tenant, id) WHERE tenant <> '';

-- Sealed entries do not change, and only `prune_audit` deletes them.
CREATE FUNCTION keep_sealed_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        RAISE EXCEPTION 'entry % of the audit log is sealed and cannot be changed', OLD.sequence;
    END IF;
    IF coalesce(current_setting('darkroom.prunes_audit', true), '') = 'on' THEN
        RETURN OLD;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER keep_sealed_entries BEFORE UPDATE OR DELETE ON audit
    FOR EACH ROW WHEN (OLD.sequence IS NOT NULL) EXECUTE FUNCTION keep_sealed_audit();

-- Delete the oldest entries of the chain, at most `most`, up to the first one that is younger, and
-- never the newest. A new entry, the checkpoint, says where the chain begins now. Old checkpoints
-- alone are not deleted: each deletion would make another one.
CREATE FUNCTION prune_audit(age_s double precision, most integer) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    last_sequence bigint;
    last_hash text;
    acts integer;
    gone integer;
BEGIN
    WITH oldest AS (
        SELECT a.sequence, a.hash, a.action, a.at < now() - make_interval(secs => age_s) AS aged
        FROM audit a WHERE a.sequence IS NOT NULL ORDER BY a.sequence LIMIT most
    ),
    doomed AS (
        SELECT * FROM oldest o
        WHERE o.sequence < coalesce(
                (SELECT min(y.sequence) FROM oldest y WHERE NOT y.aged), 9223372036854775807)
          AND o.sequence < (SELECT max(a.sequence) FROM audit a WHERE a.sequence IS NOT NULL)
    )
    SELECT max(d.sequence), (array_agg(d.hash ORDER BY d.sequence DESC))[1],
           count(*) FILTER (WHERE d.action <> 'audit.prune'), count(*)
    INTO last_sequence, last_hash, acts, gone FROM doomed d;
    IF acts = 0 THEN
        RETURN 0;
    END IF;
    -- No SET of the function: only a superuser may give a function such a parameter.
    PERFORM set_config('darkroom.prunes_audit', 'on', true);
    DELETE FROM audit a WHERE a.sequence <= last_sequence;
    PERFORM set_config('darkroom.prunes_audit', 'off', true);
    INSERT INTO audit (actor, action, detail) VALUES ('', 'audit.prune', json_build_object(
        'sequence', last_sequence, 'hash', last_hash, 'entries', gone));
    RETURN gone;
END
$$;


-- Installation, its processes and its catalogue

-- A value that all ingress replicas share, such as the key that signs upload tickets.
CREATE TABLE installation (
    key   text PRIMARY KEY,
    value text NOT NULL                      -- hex
);

-- Live settings of the configuration file when it was valid last, for an ingress that starts while
-- it is not.
CREATE TABLE live_settings (
    name       text PRIMARY KEY,
    settings   jsonb NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now()
);

-- Which ingress replica does what one of them must do (serve_app/postgres/leader_election.py).
CREATE TABLE leaders (
    name   text PRIMARY KEY,
    holder text NOT NULL,                    -- id of the ingress replica
    until  timestamptz NOT NULL              -- from then on another one may take it
) WITH (fillfactor = 50);

-- The term of an ingress process or a replica: it begins with its actor and ends once. Under an
-- ended term a replica is leased nothing more.
CREATE TABLE processes (
    actor_id    text PRIMARY KEY,
    kind        text NOT NULL CHECK (kind IN ('ingress', 'replica')),
    name        text NOT NULL,
    pool        text NOT NULL DEFAULT '',
    node        text NOT NULL DEFAULT '',
    version     text NOT NULL DEFAULT '',
    cluster     text NOT NULL DEFAULT '',
    started_at  timestamptz,                 -- null: only its end was seen
    why_started text NOT NULL DEFAULT '',
    drains      boolean NOT NULL DEFAULT false,
    seen_at     timestamptz NOT NULL DEFAULT now(),
    ended_at    timestamptz,
    why_ended   text NOT NULL DEFAULT '',
    by_itself   boolean NOT NULL DEFAULT false
);
CREATE INDEX processes_alive ON processes (cluster) WHERE ended_at IS NULL;
CREATE INDEX processes_started ON processes (started_at);
CREATE INDEX processes_ended ON processes (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX processes_seen ON processes (seen_at);

-- Durable work. The statement that makes a job necessary puts it, and it is removed when it is done.
-- Kinds: `file`, whose key is an object in storage to be deleted. It enters when its upload ticket is
-- issued and leaves when the upload is used, so uploads of a replica that died are deleted as well;
-- `weights`, whose key is a tenant and a name, to be fetched and checked; `tenant`, to be deleted;
-- `copy`, whose key is a request that is gone, and whose copy for a shadow is to be deleted;
-- `hosted`, whose key is a call of a hosted provider, whose job is to be ended; `notice`, whose key is
-- an event of a batch or a budget, whose webhook is to be called.
CREATE TABLE jobs (
    kind        text NOT NULL,
    key         text NOT NULL,
    tenant      text NOT NULL DEFAULT '',    -- whose share the work uses; empty: the process itself
    payload     jsonb NOT NULL DEFAULT '{}',
    due_at      timestamptz NOT NULL DEFAULT now(),  -- of a job that is taken: end of its lease
    attempts    integer NOT NULL DEFAULT 0,
    lease       uuid,                        -- new each time that it is taken: the fence
    error       text NOT NULL DEFAULT '',    -- of the last attempt
    given_up_at timestamptz,                 -- it is not taken any more
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (kind, key)
) WITH (autovacuum_vacuum_scale_factor = 0.01);
CREATE INDEX jobs_due ON jobs (kind, due_at) WHERE given_up_at IS NULL;
CREATE INDEX jobs_given_up ON jobs (kind, given_up_at) WHERE given_up_at IS NOT NULL;
CREATE INDEX jobs_failing ON jobs ((given_up_at IS NULL), created_at) WHERE error <> '';
CREATE INDEX jobs_of_tenant ON jobs (tenant, kind) WHERE tenant <> '';

-- A node that loses attempts again and again.
CREATE TABLE quarantines (
    node         text PRIMARY KEY,
    losses       integer NOT NULL,
    last_loss_at timestamptz NOT NULL,
    since        timestamptz NOT NULL DEFAULT now(),
    released_at  timestamptz
);

-- An entry of the catalogue that an operator has added.
CREATE TABLE catalog_entries (
    endpoint   text PRIMARY KEY,
    entry      json NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    changed_by text NOT NULL
);

-- Code of an app, which replicas of executors fetch by its digest. Entries of the catalogue name it.
CREATE TABLE app_bundles (
    digest     text PRIMARY KEY,             -- of the content, hex
    content    bytea NOT NULL,               -- a zip file
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_by text NOT NULL
);
-- Compression would not make a zip file, a JPEG or the like smaller. (PostgreSQL 15 has no clause
-- for this in CREATE TABLE.)
ALTER TABLE app_bundles ALTER COLUMN content SET STORAGE EXTERNAL;


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
    key_id           text,                   -- of the API key that submitted it
    endpoint         text NOT NULL,
    endpoint_digest  text NOT NULL,
    pool             text NOT NULL,
    priority         smallint NOT NULL,
    state            text NOT NULL,
    input            json NOT NULL,
    -- Short form of an input that is too large to be shown; null if `input` is shown. Everyone but
    -- the replica reads it instead of `input`, which lies outside the row and is then not read.
    shown            json,
    outcome          json,
    events           integer NOT NULL DEFAULT 0,   -- sequence of the latest row in `events`
    -- What no statement selects by; null: nothing. `trace`: W3C `traceparent`, and after a space
    -- `tracestate`. `origin`: of the URLs in the webhook's body. `model`: what a call of OpenAI's or
    -- Replicate's protocol named.
    call             jsonb,

    created_at       timestamptz NOT NULL DEFAULT now(),
    started_at       timestamptz,
    finished_at      timestamptz,
    start_by         timestamptz,            -- expires if not started by then; null once started
    end_by           timestamptz,            -- expires if not ended by then

    -- The lease
    attempt          integer NOT NULL DEFAULT 0,   -- number of the latest lease: the fence
    -- Leases with the same number, after a failover that lost the last transactions or a restored
    -- backup, differ by a random number.
    lease_nonce      bigint NOT NULL DEFAULT 0,
    failures         integer NOT NULL DEFAULT 0,   -- attempts that ended by crash or retryable error
    unconfirmed      integer NOT NULL DEFAULT 0,   -- leases that ran out before a report confirmed them
    confirmed        boolean NOT NULL DEFAULT false,  -- a report has confirmed the present lease
    alone            boolean NOT NULL DEFAULT false,  -- on request, or after a crash: not in a batch
    cancel_requested boolean NOT NULL DEFAULT false,
    replica_id       text,
    actor_id         text,
    lease_until      timestamptz,
    -- Sequences in the log of the lines that the attempt which runs or succeeded has started, and that
    -- it succeeded; null: the line is in `events`, because it says more or something else.
    start_line       integer,
    end_line         integer,
    -- Retries left after timeouts, server errors and connection errors, if the request limits them;
    -- null: the installation's rule.
    retries_left     smallint[],
    -- The latest snapshot, in storage. The next attempt continues from it.
    snapshot         text,                   -- key of the object
    snapshot_step    integer,                -- steps that were done when it was taken
    previews         boolean NOT NULL DEFAULT true,  -- previews may be made

    -- Fairness
    ranked_at        timestamptz NOT NULL DEFAULT now(),  -- order in its lane: submit and priority
    work             double precision NOT NULL DEFAULT 1,  -- steps * megapixels * images
    expected_s       double precision NOT NULL DEFAULT 1,  -- charged to its lane at a lease

    -- The outcome cache, and coalescing
    reuse_digest     bytea,                  -- of endpoint and input, if its outcome may be reused
    reuses           uuid,                   -- the request whose outcome this one was given
    leads            uuid,                   -- the group for which it computes the outcome
    follows          uuid,                   -- the group whose outcome it waits for

    webhook_url      text,

    -- Cost, as it was fixed at the submit; null without a price
    price            jsonb,                  -- unit, amount (as text) and currency
    reserved         numeric,                -- of the tenant's budget, until it ends

    -- Files
    file_access      text,                   -- id of its access rules; null: its files are public
    -- Presigned POST policy, with its signature, of the bucket that its files go to; null at its end.
    upload_policy    text,
    draft_key        text,                   -- of the draft that it goes on from; null: none
    draft_bytes      bigint,                 -- expected of its drafts; null: it makes none

    -- Where it may run instead of its endpoint's own pool, as the endpoint's entry said at the
    -- submit; where it runs, if that is elsewhere, and why.
    fallback         json,
    fell_back_to     text,
    fell_back_for    text,
    steps_stay       boolean NOT NULL DEFAULT false,  -- the steps of its workflow have no fallback

    -- What is deleted next of a request that came with `X-Fal-Store-IO: 0`; null: nothing.
    forgetting       text CHECK (forgetting IN ('input', 'outcome', 'done')),

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
-- What runs: few requests, which each look reads. A renewal writes no column of an index, and so none of
-- them. `actor_id` is null in all other rows: where a column is in the order of the rows, the planner
-- would take this index in place of `requests_suspect_running`.
CREATE INDEX requests_running ON requests (actor_id) WHERE state = 'running';
CREATE INDEX requests_snapshot ON requests (id) WHERE snapshot IS NOT NULL;

-- History. A page goes by id, which is the order of submits; analytics go by the end. Requests that
-- did not succeed have indexes of their own, so that a few among many are found without reading the
-- many. A request enters all but the first of these only when it ends.
CREATE INDEX requests_of_tenant ON requests (tenant, id DESC);
CREATE INDEX requests_ended ON requests (tenant, endpoint, finished_at DESC, id DESC)
    WHERE finished_at IS NOT NULL;
CREATE INDEX requests_unsuccessful ON requests (tenant, endpoint, finished_at DESC, id DESC)
    WHERE state IN ('failed', 'cancelled', 'expired');
CREATE INDEX requests_history ON requests (tenant, endpoint, id DESC) INCLUDE (state)
    WHERE finished_at IS NOT NULL;
CREATE INDEX requests_unsuccessful_of_tenant ON requests (tenant, id DESC)
    WHERE state IN ('failed', 'cancelled', 'expired');
CREATE INDEX requests_unsuccessful_of_all ON requests (id DESC)
    WHERE state IN ('failed', 'cancelled', 'expired');

-- The outcome cache
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
-- The look for queued requests that would wait too long reads only those that may run elsewhere.
CREATE INDEX requests_may_fall_back ON requests (pool, ranked_at, place)
    WHERE state = 'queued' AND fallback IS NOT NULL AND fell_back_to IS NULL;

-- Limits. What runs is counted by indexes that have the running requests only. Their second condition
-- keeps other statements off them, and `started_at` keeps these off the index of a tenant's history,
-- whatever the planner knew when it made the plan. A request to a workflow takes no slot: if it
-- counted for its tenant, a workflow would wait for its own steps forever.
CREATE INDEX requests_running_of_tenant ON requests (tenant, started_at)
    WHERE state = 'running' AND tenant IS NOT NULL AND pool <> 'workflows';
CREATE INDEX requests_running_of_endpoint ON requests (endpoint, started_at)
    WHERE state = 'running' AND endpoint IS NOT NULL;
-- Open realtime sessions of a tenant (priority 3), counted when one more begins.
CREATE INDEX requests_open_sessions ON requests (tenant, pool)
    WHERE priority = 3 AND state IN ('queued', 'running');
-- Bytes of waiting requests whose input is large. There are few of them, so their sum is read each
-- second. In this order, so that no other index serves the sum by tenant.
CREATE INDEX requests_large_waiting ON requests (tenant, pool, endpoint)
    WHERE shown IS NOT NULL AND state IN ('queued', 'following');

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

-- Drafts are not deleted before the requests that go on from them have ended. Bytes of a tenant's
-- drafts to come are read from the second index alone.
CREATE INDEX requests_from_drafts ON requests (draft_key)
    WHERE draft_key IS NOT NULL AND outcome IS NULL;
CREATE INDEX requests_with_drafts ON requests (tenant) INCLUDE (draft_bytes)
    WHERE draft_bytes IS NOT NULL AND outcome IS NULL;

-- Deletion. What is deleted by age goes oldest first, and the last index has only what is still to be
-- deleted.
CREATE INDEX requests_to_forget ON requests (forgetting, finished_at)
    WHERE forgetting IN ('input', 'outcome') AND finished_at IS NOT NULL;
CREATE INDEX requests_with_prompts ON requests (tenant, id)
    WHERE forgetting IS NULL AND outcome IS NOT NULL;

-- An idempotency key, which counts for its tenant and endpoint. Of a request that is deleted it stays
-- until a day after the submit. `body_digest` tells a repeat from another request under the same key.
CREATE TABLE idempotency_keys (
    tenant      text NOT NULL,
    endpoint    text NOT NULL,
    key         text NOT NULL,
    request_id  uuid NOT NULL,
    body_digest bytea,
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz,                 -- null: its request is stored
    PRIMARY KEY (tenant, endpoint, key)
);
CREATE INDEX idempotency_keys_of_request ON idempotency_keys (request_id);
CREATE INDEX idempotency_keys_by_expiry ON idempotency_keys (expires_at) WHERE expires_at IS NOT NULL;

-- An attempt that ended without success. The one that runs or succeeded is in its request.
CREATE TABLE attempts (
    request_id uuid NOT NULL,
    attempt    integer NOT NULL,
    nonce      bigint NOT NULL DEFAULT 0,    -- `lease_nonce` of the request
    replica_id text NOT NULL,
    actor_id   text NOT NULL,
    endpoint   text,                         -- that it ran, if it is not its request's
    node       text,                         -- only if its replica did not bring it to an end
    started_at timestamptz NOT NULL,
    ended_at   timestamptz NOT NULL DEFAULT now(),
    ended      text NOT NULL CHECK (         -- `by_hand`: an operator ended it
        ended IN (
            'failed', 'cancelled', 'expired', 'retry', 'died', 'lost', 'interrupted', 'stopped',
            'hand_back', 'undo', 'by_hand')),
    message    text NOT NULL DEFAULT '',
    start_line integer,                      -- as in `requests`
    run_s      double precision NOT NULL DEFAULT 0,
    steps      integer NOT NULL DEFAULT 0,
    units      double precision NOT NULL DEFAULT 0,
    -- It ended without its files, and the files that it may have uploaded are jobs of the kind `file`.
    collected  boolean NOT NULL DEFAULT false,
    PRIMARY KEY (request_id, attempt)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01);
CREATE INDEX attempts_to_collect ON attempts (request_id)
    WHERE ended <> 'undo' AND NOT collected;
CREATE INDEX attempts_lost ON attempts (ended_at) WHERE node IS NOT NULL;

-- A line of a request's own log; changes of its state are among them. Lines that other rows say are not
-- stored: that it was queued, that an attempt started, that it succeeded.
CREATE TABLE events (
    request_id uuid NOT NULL,
    sequence   integer NOT NULL,             -- per request, from 1, without gaps
    at         timestamptz NOT NULL DEFAULT now(),
    level      text NOT NULL DEFAULT 'INFO',
    state      text,                         -- set if the event is a change of state
    message    text NOT NULL,
    PRIMARY KEY (request_id, sequence)
);

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

-- Progress and the newest preview of a running request.
CREATE UNLOGGED TABLE progress (
    request_id     uuid PRIMARY KEY,
    attempt        integer NOT NULL,
    stage          text NOT NULL,
    step           bigint NOT NULL,          -- in a download steps are bytes, often more than 2^31
    steps          bigint NOT NULL,
    at             timestamptz NOT NULL DEFAULT now(),
    rate           double precision NOT NULL DEFAULT 0,  -- steps per second; 0: not known
    preview        bytea,                    -- JPEG
    preview_step   bigint NOT NULL DEFAULT 0,  -- 0: there is none
    watched_until  timestamptz,              -- a client watches the previews
    followed_until timestamptz               -- a client follows it: reports come more often
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);
ALTER TABLE progress ALTER COLUMN preview SET STORAGE EXTERNAL;

-- A value that the generator of an app has yielded, for clients that stream.
CREATE UNLOGGED TABLE partial_results (
    request_id uuid NOT NULL,
    attempt    integer NOT NULL,
    number     integer NOT NULL,             -- in the attempt, from 0
    value      text NOT NULL,                -- JSON
    PRIMARY KEY (request_id, attempt, number)
) WITH (autovacuum_vacuum_scale_factor = 0.01);


-- Replicas and their weights

-- A replica, as its last poll or report said.
CREATE UNLOGGED TABLE replicas (
    replica_id   text PRIMARY KEY,
    actor_id     text NOT NULL,
    pool         text NOT NULL,
    node         text NOT NULL DEFAULT '',
    device       text NOT NULL DEFAULT '',
    stage        text NOT NULL,
    detail       text NOT NULL DEFAULT '',
    slots        integer NOT NULL DEFAULT 1,  -- generations it runs at once
    busy_at      timestamptz,                -- when it last held a lease
    seen_at      timestamptz NOT NULL DEFAULT now(),
    -- What it loads, and how many bytes of that are there: stage and share of a cold start.
    loading      json NOT NULL DEFAULT '[]',
    -- Endpoints whose weights it holds on its device, in host memory and on its disk.
    hot          json NOT NULL DEFAULT '[]',
    warm         json NOT NULL DEFAULT '[]',
    on_disk      json NOT NULL DEFAULT '[]',
    -- Endpoints that it should hold, with their levels, written by one ingress process (null: not
    -- decided yet), and those of them that it does not.
    keep         json,
    not_kept     json NOT NULL DEFAULT '[]',
    -- Bytes of its device, or on a CPU of its process and its machine; null: not known.
    memory_used  bigint,
    memory_total bigint
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);

-- Replicas that are there. One that starts says nothing while its imports block it, the others call
-- every few seconds. That an actor has died is noticed before.
CREATE VIEW live_replicas AS
SELECT * FROM replicas
WHERE seen_at > now() - CASE stage WHEN 'starting' THEN interval '15 min' ELSE interval '15 s' END;

-- A warm target, set by an operator.
CREATE TABLE warm_targets (
    endpoint text PRIMARY KEY,
    replicas integer NOT NULL,
    level    text NOT NULL,
    until    timestamptz,
    at       timestamptz NOT NULL DEFAULT now(),
    actor    text NOT NULL
);

-- A replica that sends weights to other nodes, and what it has. It offers them again within a minute.
CREATE UNLOGGED TABLE weight_peers (
    replica_id text PRIMARY KEY,
    node_id    text NOT NULL,                -- Ray's
    url        text NOT NULL,                -- origin of its server
    weights    text[] NOT NULL,              -- owner/name@commit
    seen_at    timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);

-- Nodes on which a replica died with the request, and that of `last_replica`.
CREATE FUNCTION died_on_nodes(of_request uuid, last_replica text DEFAULT NULL) RETURNS text[]
LANGUAGE sql STABLE AS $$
    SELECT coalesce(array_agg(node), '{}') FROM (
        SELECT node FROM attempts
        WHERE request_id = of_request AND node IS NOT NULL AND ended IN ('lost', 'died')
        UNION
        SELECT node FROM replicas WHERE replica_id = last_replica AND node <> '') x
$$;

CREATE FUNCTION has_ready_elsewhere(of_pool text, than text[]) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT cardinality(than) > 0 AND EXISTS (
        SELECT FROM live_replicas
        WHERE pool = of_pool AND stage = 'ready' AND node <> '' AND node <> ALL (than))
$$;

-- True if one of the replicas is on a node on which none has died with the request, or there is no
-- other.
CREATE FUNCTION may_run_suspect(of_request uuid, of_pool text, on_replicas text[]) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT NOT has_ready_elsewhere(of_pool, than) OR EXISTS (
        SELECT FROM replicas WHERE replica_id = ANY (on_replicas) AND node <> ALL (than))
    FROM (SELECT died_on_nodes(of_request) AS than OFFSET 0) x
$$;

CREATE FUNCTION one_node_is_to_blame(of_request uuid, last_replica text, of_pool text)
RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT cardinality(than) = 1 AND has_ready_elsewhere(of_pool, than)
    FROM (SELECT died_on_nodes(of_request, last_replica) AS than OFFSET 0) x
$$;

-- A pool that tries other code beside a pool, and how attempts ended in both while it does.
CREATE TABLE canaries (
    pool        text NOT NULL,
    runs        text NOT NULL,
    beside      text NOT NULL,
    seen_at     timestamptz NOT NULL DEFAULT now(),
    comparison  text NOT NULL DEFAULT '',
    returned_at timestamptz,
    PRIMARY KEY (pool, runs)
);
CREATE TABLE canary_attempts (
    pool       text NOT NULL,
    runs       text NOT NULL,
    tried      boolean NOT NULL,
    replica_id text NOT NULL,
    endpoint   text NOT NULL,
    ended      text NOT NULL,
    seconds    double precision,
    ended_at   timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (pool, runs) REFERENCES canaries ON DELETE CASCADE
);
CREATE INDEX canary_attempts_of ON canary_attempts (pool, runs, tried, ended_at);


-- Fairness, limits and pauses

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
    actor    text NOT NULL
);

-- Counts of what runs under a limit, so that a leasing need not read an index entry of each. They
-- are kept only for names whose entries are many, and each is a bound that stays right whatever
-- happens later: of what began before `since`, at most `counted` run, and nothing that runs began
-- before `first`. So nobody corrects them when an attempt ends, and a lost one is made again.
CREATE UNLOGGED TABLE running_counts (
    kind    text NOT NULL,
    name    text NOT NULL,
    counted integer NOT NULL,
    since   timestamptz NOT NULL,
    first   timestamptz NOT NULL,
    PRIMARY KEY (kind, name)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);

-- What runs of a tenant or endpoint from a time on, in the order of the start, `most` at most:
-- how many, how many of them began before `boundary`, and the start of the first one. Volatile,
-- since each statement of a volatile function sees what was committed before it.
CREATE FUNCTION count_running(
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

-- How many more requests of a tenant or endpoint may run: exactly, if it is less than `wanted`, and
-- otherwise at least `wanted`. Until the end of its transaction, no other one gets a number for the
-- same name: it gets -1, and waits for nothing, so no two can deadlock. What is leased under it
-- must have a `started_at` of after this call (`clock_timestamp()`, not `now()`): on this the counts
-- rely.
--
-- A count that read many pages or entries is kept for the next call. Beside an open snapshot that is
-- what ends the reading of the entries of ended requests. A clock that was set back is noticed by
-- counts from the future.
CREATE FUNCTION room_under_limit(of_kind text, of_name text, most integer, wanted integer)
RETURNS integer LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    many_pages CONSTANT integer := 8;
    many_entries CONSTANT integer := 200;
    margin CONSTANT interval := '0.2 s';
    keep_every CONSTANT interval := '1 s';
    entries CONSTANT oid := CASE of_kind WHEN 'tenant'
        THEN 'requests_running_of_tenant'::regclass
        ELSE 'requests_running_of_endpoint'::regclass END;
    known running_counts%ROWTYPE;
    is_known boolean;
    due boolean;
    at timestamptz;
    pages bigint;
    recent record;
    everything record;
    read_much boolean;
BEGIN
    IF NOT pg_try_advisory_xact_lock_shared(1818848628)
        OR NOT pg_try_advisory_xact_lock(1818848628, hashtext(of_kind || ' ' || of_name)) THEN
        RETURN -1;
    END IF;
    at := clock_timestamp();
    SELECT * INTO known FROM running_counts c WHERE c.kind = of_kind AND c.name = of_name;
    is_known := FOUND AND known.since <= at;
    read_much := FOUND AND NOT is_known;
    due := NOT is_known OR known.since < at - margin - keep_every;
    pages := pg_stat_get_xact_blocks_fetched('requests'::regclass)
        + pg_stat_get_xact_blocks_fetched(entries);
    IF is_known AND known.counted <= most - wanted THEN
        SELECT * INTO recent FROM count_running(
            of_kind, of_name, known.since, at, most - known.counted);
        IF recent.total <= most - known.counted - wanted AND (
            NOT due OR recent.total < many_entries
            AND pg_stat_get_xact_blocks_fetched('requests'::regclass)
                + pg_stat_get_xact_blocks_fetched(entries) - pages < many_pages) THEN
            RETURN most - known.counted - recent.total;
        END IF;
    END IF;
    SELECT * INTO everything FROM count_running(
        of_kind, of_name, CASE WHEN is_known THEN known.first ELSE '-infinity' END,
        at - margin, most);
    read_much := read_much OR everything.total >= many_entries
        OR pg_stat_get_xact_blocks_fetched('requests'::regclass)
            + pg_stat_get_xact_blocks_fetched(entries) - pages >= many_pages;
    IF read_much AND due THEN
        everything.first := least(everything.first, at - margin);
        -- Where the limit ended the count, it says only which one is the first.
        INSERT INTO running_counts AS c (kind, name, counted, since, first)
        SELECT of_kind, of_name,
               CASE WHEN everything.total < most THEN everything.before ELSE 0 END,
               CASE WHEN everything.total < most THEN at - margin ELSE everything.first END,
               everything.first
        ON CONFLICT (kind, name) DO UPDATE
        SET counted = excluded.counted, since = excluded.since, first = excluded.first;
    END IF;
    RETURN most - everything.total;
END
$$;


-- Usage, prices and budgets

-- What a request consumed. One row each, however many attempts it took. A frame of a realtime
-- session has a row too, under an id of its own.
CREATE TABLE usage (
    request_id   uuid PRIMARY KEY,
    tenant       text NOT NULL,
    key_id       text,
    endpoint     text NOT NULL,
    state        text NOT NULL,
    attempt      integer NOT NULL,
    run_s        double precision NOT NULL,
    steps        integer NOT NULL,
    units        double precision NOT NULL,  -- the endpoint's billing unit
    images       integer NOT NULL DEFAULT 0,
    megapixels   integer NOT NULL DEFAULT 0,  -- of each image, rounded up
    at           timestamptz NOT NULL DEFAULT now(),
    submitted_at timestamptz,                -- with a reserve: the period of a budget counts by the submit
    price        jsonb,                      -- null: all that follows is, too
    billed       numeric,                    -- units of the price; 0 unless it computed and succeeded
    amount       numeric,                    -- billed units times the price's amount
    -- What `requests` had reserved of a budget, for its fallback perhaps; 0 with a price and without a
    -- budget, since the tenant may get one before the request ends.
    reserved     numeric
);
-- Sums are read from the index alone, and what counts towards a budget and has ended, of which a
-- submit reads the last minutes.
CREATE INDEX usage_of_tenant_billed ON usage (tenant, at) INCLUDE (
    endpoint, state, key_id, run_s, steps, units, images, megapixels, price, billed, amount,
    submitted_at, reserved);

-- Usage that is older than DARKROOM_USAGE_DETAIL_DAYS, summed by day (UTC) and by all that it can be
-- asked for. The sums are exact: decimal numbers.
CREATE TABLE usage_days (
    day        date NOT NULL,
    tenant     text NOT NULL,
    key_id     text,
    endpoint   text NOT NULL,
    state      text NOT NULL,
    price      jsonb,
    requests   bigint NOT NULL,
    run_s      numeric NOT NULL,
    steps      numeric NOT NULL,
    units      numeric NOT NULL,
    images     bigint NOT NULL,
    megapixels bigint NOT NULL,
    billed     numeric,
    amount     numeric
);
CREATE UNIQUE INDEX usage_days_of_tenant
    ON usage_days (tenant, day, endpoint, state, key_id, price) NULLS NOT DISTINCT;

-- Rate and budget of a tenant that has one: locked by each statement that stores its requests.
-- A budget counts what was reserved by requests that were submitted in its period, less what those
-- that have ended did not cost: `settled` of those that ended before `settled_at`, and the lines of
-- `usage` since then. So no statement that ends a request needs this row.
CREATE TABLE tenant_quotas (
    tenant     text PRIMARY KEY,
    tat        timestamptz NOT NULL DEFAULT '-infinity',  -- of its rate: time up to which calls are used
    unit       text NOT NULL DEFAULT '',                  -- day or month
    currency   text NOT NULL DEFAULT '',
    period     timestamptz NOT NULL DEFAULT '-infinity',  -- its start, UTC
    reserved   numeric NOT NULL DEFAULT 0,
    settled    numeric NOT NULL DEFAULT 0,
    settled_at timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50);

-- What requests of the period that ended since a time had reserved and did not cost. One without a
-- price has reserved that of its fallback, in the currency of the budget. The budget may have had
-- another currency before: what was reserved in that frees nothing in this one.
CREATE FUNCTION budget_freed(
    of_tenant text, of_currency text, of_period timestamptz, since timestamptz, until timestamptz)
RETURNS numeric LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(u.reserved - coalesce(u.amount, 0)), 0) FROM usage u
    WHERE u.tenant = of_tenant AND u.reserved IS NOT NULL AND u.at >= since AND u.at < until
      AND u.submitted_at >= of_period
      AND coalesce(u.price ->> 'currency', of_currency) = of_currency
$$;

-- Decide which requests of a tenant are stored, in their order. `verdicts`: for each of `reserves`
-- (null: it does not count towards the budget) an empty text, or `rate` or `budget`. `needs`: what
-- has to be left for it, which for a workflow is what its steps will reserve. `every_s`: time that a call costs; null: no rate. `unit`, `budget`: null for none; a budget that does not
-- stop only counts. Other statements for the tenant wait until this one has committed. Each
-- statement of a volatile function sees what was committed before it, so what is read under the
-- lock is all that counts. Lines of `usage` are settled when they are a minute old, since then every
-- statement that wrote older ones has ended. A new period, or a new budget, counts what the period
-- has cost before it. That sum is stored also if nothing is admitted: a tenant without budget that
-- goes on submitting would have its whole period summed up by each of its submits.
CREATE FUNCTION admit_requests(
    of_tenant text, every_s double precision, burst integer, of_unit text, of_currency text,
    budget numeric, stops boolean, reserves numeric[], needs numeric[],
    OUT verdicts text[], OUT wait_s double precision, OUT remaining integer,
    OUT reset_s double precision, OUT free numeric)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    settle_after CONSTANT interval := '5 min';
    late CONSTANT interval := '1 min';
    cost interval := make_interval(secs => coalesce(every_s, 0));
    at timestamptz;
    begun timestamptz;
    q tenant_quotas%ROWTYPE;
    each numeric;
    needed numeric;
    summed boolean := false;
BEGIN
    INSERT INTO tenant_quotas (tenant) VALUES (of_tenant) ON CONFLICT DO NOTHING;
    SELECT * INTO q FROM tenant_quotas WHERE tenant = of_tenant FOR UPDATE;
    at := clock_timestamp();
    IF budget IS NOT NULL THEN
        begun := date_trunc(of_unit, now(), 'UTC');
        IF q.period < begun OR (q.unit, q.currency) IS DISTINCT FROM (of_unit, of_currency) THEN
            SELECT coalesce(sum(x.reserved), 0) INTO q.reserved FROM (
                SELECT u.reserved FROM usage u
                WHERE u.tenant = of_tenant AND u.at >= begun AND u.submitted_at >= begun
                  AND coalesce(u.price ->> 'currency', of_currency) = of_currency
                UNION ALL
                SELECT r.reserved FROM requests r
                WHERE q.unit <> '' AND (q.unit, q.currency) IS DISTINCT FROM (of_unit, of_currency)
                  AND r.tenant = of_tenant AND r.outcome IS NULL AND r.created_at >= begun
                  AND coalesce(r.price ->> 'currency', of_currency) = of_currency
            ) x;
            q.unit := of_unit; q.currency := of_currency; q.period := begun;
            q.settled_at := greatest(begun, at - late);
            q.settled := budget_freed(of_tenant, of_currency, begun, begun, q.settled_at);
            summed := true;
        ELSIF q.settled_at < at - settle_after THEN
            q.settled := q.settled
                + budget_freed(of_tenant, of_currency, q.period, q.settled_at, at - late);
            q.settled_at := at - late;
            summed := true;
        END IF;
        free := budget - q.reserved + q.settled
            + budget_freed(of_tenant, of_currency, q.period, q.settled_at, 'infinity');
    END IF;
    q.tat := greatest(q.tat, at);
    FOR each, needed IN SELECT * FROM unnest(reserves, needs) LOOP
        IF every_s IS NOT NULL AND q.tat + cost - at > burst * cost THEN
            verdicts := array_append(verdicts, 'rate');
        ELSIF budget IS NOT NULL AND stops AND needed > 0 AND needed > free THEN
            verdicts := array_append(verdicts, 'budget');
        ELSE
            verdicts := array_append(verdicts, '');
            q.tat := q.tat + cost;
            free := free - coalesce(each, 0);
            -- A transaction that began before midnight may come here when another one has begun the
            -- new period. Its request counts by its submit, so only its line of usage does.
            q.reserved := q.reserved
                + CASE WHEN budget IS NULL OR q.period > begun THEN 0 ELSE coalesce(each, 0) END;
        END IF;
    END LOOP;
    IF every_s IS NOT NULL THEN
        wait_s := greatest(0, extract(epoch FROM q.tat + cost - at) - burst * every_s);
        reset_s := extract(epoch FROM q.tat - at);
        remaining := greatest(0, floor(burst - reset_s / every_s));
    END IF;
    IF summed OR '' = ANY(verdicts) THEN
        UPDATE tenant_quotas t SET tat = q.tat, unit = q.unit, currency = q.currency,
            period = q.period, reserved = q.reserved, settled = q.settled,
            settled_at = q.settled_at
        WHERE t.tenant = of_tenant;
    END IF;
END
$$;

-- A warning about a budget: each threshold once in a period.
CREATE TABLE budget_warnings (
    tenant     text NOT NULL,
    period     timestamptz NOT NULL,
    threshold  double precision NOT NULL,    -- share of the budget
    created_at timestamptz NOT NULL DEFAULT now(),
    used       numeric NOT NULL,             -- cost, and reserved
    budget     numeric NOT NULL,
    currency   text NOT NULL,
    PRIMARY KEY (tenant, period, threshold)
);

-- Seconds of replicas by hour, pool and class of GPU, sampled while they are alive.
CREATE TABLE replica_hours (
    hour   timestamptz NOT NULL,
    pool   text NOT NULL,
    gpu    text NOT NULL,                    -- class; empty: no GPU, or not known
    paid_s numeric NOT NULL,                 -- sum over the replicas that were alive
    busy_s numeric NOT NULL,                 -- of these, that ran a request
    PRIMARY KEY (hour, pool, gpu)
);

-- The largest figures of each pool in each minute of the last day.
CREATE TABLE pool_minutes (
    minute   timestamptz NOT NULL,
    pool     text NOT NULL,
    queued   integer NOT NULL,
    running  integer NOT NULL,
    replicas integer NOT NULL,               -- that were ready
    wait_s   double precision NOT NULL,      -- of the oldest queued request
    PRIMARY KEY (minute, pool)
);


-- Files in storage

-- A file of a request that succeeded.
CREATE TABLE artifacts (
    key          text PRIMARY KEY,           -- of the object in storage
    request_id   uuid NOT NULL,
    attempt      integer NOT NULL,
    tenant       text NOT NULL,
    media_type   text NOT NULL,
    size         bigint NOT NULL,
    sha256       text NOT NULL,              -- hex
    width        integer,
    height       integer,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    thumbnail_of text                        -- key of the file that it is a small image of; null: an output
);
CREATE INDEX artifacts_of_request ON artifacts (request_id);
CREATE INDEX artifacts_of_tenant ON artifacts (tenant, request_id);

-- A request whose client set the lifetime of its files. Written before the request itself: if the
-- request is never stored, the row is deleted a day later.
CREATE TABLE lifecycles (
    request_id uuid PRIMARY KEY,
    keep_s     double precision NOT NULL,    -- from the request's end
    created_at timestamptz NOT NULL DEFAULT now(),
    due_at     timestamptz                   -- null: the request had not ended when last looked at
);
CREATE INDEX lifecycles_due ON lifecycles (due_at);
CREATE INDEX lifecycles_waiting ON lifecycles (request_id) WHERE due_at IS NULL;

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
    key_id     text NOT NULL DEFAULT '',     -- key that asked for it: the offer ends with it
    metadata   json,                         -- what its client says of it; null: nothing
    created_at timestamptz NOT NULL DEFAULT now(),
    due_at     timestamptz,                  -- deleted then; null: not by itself
    CHECK ((state = 'whole') <= (size IS NOT NULL))
);
CREATE INDEX uploads_due ON uploads (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX uploads_of_tenant ON uploads (tenant, created_at) WHERE state = 'whole';
-- Bytes and open offers of a tenant's uploads, read from the index alone.
CREATE INDEX uploads_bytes_of_tenant ON uploads (tenant, state, size)
    WHERE state IN ('open', 'whole');

-- A part of a multipart upload.
CREATE TABLE upload_parts (
    key    text NOT NULL REFERENCES uploads (key) ON DELETE CASCADE,
    number integer NOT NULL,
    etag   text NOT NULL,                    -- without quotes
    size   bigint NOT NULL,
    PRIMARY KEY (key, number)
);

-- Bytes of each tenant's whole uploads, so that an offer need not read an index entry of each file.
-- Triggers keep them, because the statements that end an upload are many. A statement changes the
-- totals last, in the order of the tenants, and waits for nothing afterwards, so no two deadlock.
CREATE TABLE upload_totals (
    tenant text PRIMARY KEY,
    bytes  bigint NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);
CREATE FUNCTION add_to_upload_totals() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO upload_totals AS t (tenant, bytes)
        SELECT tenant, sum(size) FROM added WHERE state = 'whole' GROUP BY tenant ORDER BY tenant
        ON CONFLICT (tenant) DO UPDATE SET bytes = t.bytes + excluded.bytes;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO upload_totals AS t (tenant, bytes)
        SELECT tenant, -sum(size) FROM removed WHERE state = 'whole' GROUP BY tenant ORDER BY tenant
        ON CONFLICT (tenant) DO UPDATE SET bytes = t.bytes + excluded.bytes;
    ELSE
        INSERT INTO upload_totals AS t (tenant, bytes)
        SELECT tenant, sum(change) FROM (
            SELECT tenant, size AS change FROM added WHERE state = 'whole'
            UNION ALL
            SELECT tenant, -size FROM removed WHERE state = 'whole') x
        GROUP BY tenant HAVING sum(change) <> 0 ORDER BY tenant
        ON CONFLICT (tenant) DO UPDATE SET bytes = t.bytes + excluded.bytes;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER add_inserted_uploads AFTER INSERT ON uploads
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION add_to_upload_totals();
CREATE TRIGGER add_changed_uploads AFTER UPDATE ON uploads
    REFERENCING OLD TABLE AS removed NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION add_to_upload_totals();
CREATE TRIGGER subtract_deleted_uploads AFTER DELETE ON uploads
    REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION add_to_upload_totals();

-- Access rules of private files, by their digest, which is in the keys of the files. Rows never
-- change.
CREATE TABLE file_access (
    id         text PRIMARY KEY,
    tenant     text NOT NULL,
    rules      jsonb NOT NULL,               -- `default`, and `users` with their decisions
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX file_access_of_tenant ON file_access (tenant);

-- Signed URLs that are revoked. Writers take a lock, so that numbers become visible in their order.
CREATE SEQUENCE file_url_revocation_numbers;
CREATE TABLE file_url_revocations (
    key        text NOT NULL,
    signature  text NOT NULL,                -- empty: all URLs of the file before `generation`
    number     bigint NOT NULL,
    tenant     text NOT NULL,
    generation integer NOT NULL DEFAULT 0,
    expires_at timestamptz,                  -- of the URL; null: it does not expire
    revoked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (key, signature)
);
-- A restore drops tables, and with them the sequences that they own.
ALTER SEQUENCE file_url_revocation_numbers OWNED BY file_url_revocations.number;
CREATE UNIQUE INDEX file_url_revocations_by_number ON file_url_revocations (number);
CREATE INDEX file_url_revocations_of_tenant ON file_url_revocations (tenant);

-- A draft, which requests go on from.
CREATE TABLE drafts (
    id         text PRIMARY KEY,
    tenant     text NOT NULL,
    request_id uuid NOT NULL,
    key        text NOT NULL UNIQUE,
    size       bigint NOT NULL,
    sha256     text NOT NULL,
    facts      json NOT NULL,                -- as in the output of its request
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    held_until timestamptz                   -- a request has found it, and is about to be stored
);
CREATE INDEX drafts_of_tenant ON drafts (tenant, created_at DESC, id DESC);
CREATE INDEX drafts_of_request ON drafts (request_id);
CREATE INDEX drafts_by_expiry ON drafts (expires_at);

-- A draft that an unfinished request goes on from, or that a submit has just found, expires when its
-- request is deleted: it is not found any more, and its row and its file are deleted when it is free,
-- as those of other expired drafts.
CREATE FUNCTION forget_drafts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    WITH own AS (
        SELECT d.id, d.key, coalesce(d.held_until > now(), false) OR EXISTS (
            SELECT FROM requests r WHERE r.draft_key = d.key AND r.outcome IS NULL) AS used
        FROM drafts d WHERE d.request_id = OLD.id
        FOR UPDATE OF d
    ),
    outdated AS (
        UPDATE drafts d SET expires_at = least(d.expires_at, now()) FROM own o WHERE d.id = o.id AND o.used
    ),
    gone AS (DELETE FROM drafts d USING own o WHERE d.id = o.id AND NOT o.used RETURNING d.key)
    INSERT INTO jobs (kind, key, due_at) SELECT 'file', key, now() FROM gone
    ON CONFLICT (kind, key) DO NOTHING;
    RETURN NULL;
END
$$;
CREATE TRIGGER forget_deleted_drafts AFTER DELETE ON requests
    FOR EACH ROW EXECUTE FUNCTION forget_drafts();


-- Gallery

-- Words of a request's prompt, and its tenant as a word that begins with @. A request whose input is
-- not to be kept has no row.
CREATE TABLE request_words (
    tenant     text NOT NULL,
    request_id uuid NOT NULL,
    words      tsvector NOT NULL,
    PRIMARY KEY (tenant, request_id)
);
-- New words wait in a list, which a task moves into the index: an insert never does it.
CREATE INDEX request_words_found ON request_words USING gin (words)
    WITH (fastupdate = on, gin_pending_list_limit = 16384);

-- A GIN index is read by bitmap scans only, which the queue's sessions forbid.
CREATE FUNCTION requests_with_words(wanted tsquery, most integer) RETURNS SETOF uuid
LANGUAGE plpgsql STABLE
SET enable_bitmapscan = on
SET enable_indexscan = off
SET enable_indexonlyscan = off
AS $$
BEGIN
    RETURN QUERY SELECT w.request_id FROM request_words w WHERE w.words @@ wanted LIMIT most;
END
$$;

CREATE TABLE favourites (
    tenant     text NOT NULL,
    request_id uuid NOT NULL,
    at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, request_id)
);

CREATE TABLE share_links (
    id         text PRIMARY KEY,
    digest     bytea NOT NULL UNIQUE,        -- of the link's token, which is stored nowhere
    tenant     text NOT NULL,
    request_id uuid NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);
CREATE INDEX share_links_of_tenant ON share_links (tenant, created_at DESC, id);
CREATE INDEX share_links_of_request ON share_links (request_id);

CREATE FUNCTION forget_in_gallery() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM request_words WHERE tenant = OLD.tenant AND request_id = OLD.id;
    DELETE FROM share_links WHERE request_id = OLD.id;
    DELETE FROM favourites WHERE tenant = OLD.tenant AND request_id = OLD.id;
    RETURN NULL;
END
$$;
CREATE TRIGGER forget_deleted_in_gallery AFTER DELETE ON requests
    FOR EACH ROW EXECUTE FUNCTION forget_in_gallery();


-- Weights of tenants

CREATE TABLE tenant_weights (
    tenant       text NOT NULL,
    name         text NOT NULL,
    kind         text NOT NULL DEFAULT '',   -- empty: not known yet
    base         text NOT NULL,              -- endpoint
    base_weights text NOT NULL DEFAULT '',   -- source and revision that it was checked against
    source       jsonb NOT NULL,             -- one of upload, url, hub, files
    state        text NOT NULL DEFAULT 'waiting'
        CHECK (state IN ('waiting', 'fetching', 'checking', 'ready', 'refused')),
    problem      text NOT NULL DEFAULT '',   -- why it was refused
    size         bigint NOT NULL DEFAULT 0,  -- counts towards the quota
    done         bigint NOT NULL DEFAULT 0,  -- bytes that were fetched
    facts        jsonb NOT NULL DEFAULT '{}',  -- what the files say of themselves
    endpoint     text,                       -- private endpoint that serves it; null: none
    scale        double precision NOT NULL DEFAULT 1,  -- of a LoRA in its endpoint
    public       boolean NOT NULL DEFAULT false,
    created_at   timestamptz NOT NULL DEFAULT now(),
    changed_at   timestamptz NOT NULL DEFAULT now(),
    created_by   text NOT NULL,
    PRIMARY KEY (tenant, name)
);
CREATE UNIQUE INDEX tenant_weights_endpoint ON tenant_weights (endpoint) WHERE endpoint IS NOT NULL;

CREATE FUNCTION forget_weights_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM jobs WHERE kind = 'weights' AND key = OLD.tenant || '/' || OLD.name;
    RETURN NULL;
END
$$;
CREATE TRIGGER forget_weights_job AFTER DELETE ON tenant_weights
    FOR EACH ROW EXECUTE FUNCTION forget_weights_job();

-- A file in storage, stored once however many tenants have registered it.
CREATE TABLE weight_files (
    digest     text PRIMARY KEY,             -- hex
    key        text NOT NULL UNIQUE,
    size       bigint NOT NULL,
    stored     boolean NOT NULL DEFAULT false,
    touched_at timestamptz NOT NULL DEFAULT now()  -- last use; without any it is deleted a day later
);
CREATE TABLE tenant_weight_files (
    tenant text NOT NULL,
    name   text NOT NULL,
    path   text NOT NULL,                    -- in the pipeline's folder; a LoRA's file has no folder
    digest text NOT NULL,
    size   bigint NOT NULL,
    PRIMARY KEY (tenant, name, path),
    FOREIGN KEY (tenant, name) REFERENCES tenant_weights ON DELETE CASCADE
);
CREATE INDEX tenant_weight_files_digest ON tenant_weight_files (digest);

-- The day begins with the last registration that goes, so that queued requests still find the file.
CREATE FUNCTION touch_weight_file() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE weight_files SET touched_at = now() WHERE digest = OLD.digest;
    RETURN NULL;
END
$$;
CREATE TRIGGER touch_weight_file AFTER DELETE ON tenant_weight_files
    FOR EACH ROW EXECUTE FUNCTION touch_weight_file();


-- Batches: many requests from one file

-- A file of a batch. It is an upload of its tenant, which holds the content and its age, and its end
-- is the end of the file.
CREATE TABLE batch_files (
    id         text PRIMARY KEY,
    tenant     text NOT NULL,
    key        text NOT NULL UNIQUE,
    name       text NOT NULL,
    purpose    text NOT NULL,
    batch_id   text,                         -- that wrote it; null: a client uploaded it
    size       bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX batch_files_of_tenant ON batch_files (tenant, created_at, id);
CREATE INDEX batch_files_of_batch ON batch_files (batch_id) WHERE batch_id IS NOT NULL;

CREATE FUNCTION forget_batch_file() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM batch_files WHERE key = OLD.key;
    RETURN NULL;
END
$$;
CREATE TRIGGER forget_unwanted_batch_files AFTER UPDATE OF state ON uploads
    FOR EACH ROW WHEN (NEW.state = 'unwanted' AND OLD.state <> 'unwanted')
    EXECUTE FUNCTION forget_batch_file();
CREATE TRIGGER forget_deleted_batch_files AFTER DELETE ON uploads
    FOR EACH ROW EXECUTE FUNCTION forget_batch_file();

CREATE TABLE batches (
    id             text PRIMARY KEY,
    tenant         text NOT NULL,
    key_id         text NOT NULL,
    origin         text NOT NULL,
    endpoint       text NOT NULL,
    input_file     text NOT NULL,
    input_key      text NOT NULL,
    -- Headers of the call that created it, such as access rules of files: they hold for each line.
    headers        json,                     -- lower-case name → value; null: none
    max_cost       text,                     -- as in the header `X-Darkroom-Max-Cost`
    status         text NOT NULL DEFAULT 'validating' CHECK (status IN (
        'validating', 'in_progress', 'cancelling', 'finalizing', 'failed', 'completed', 'expired',
        'cancelled')),
    stop           text CHECK (stop IN ('cancelled', 'expired')),  -- no more requests are sent
    errors         json NOT NULL DEFAULT '[]',
    metadata       json,
    keep_outputs_s double precision,
    -- Lines. Those that have ended are counted by the statement that ends them.
    total          integer NOT NULL DEFAULT 0,
    completed      integer NOT NULL DEFAULT 0,
    failed         integer NOT NULL DEFAULT 0,
    output_file    text,
    error_file     text,
    created_at     timestamptz NOT NULL DEFAULT now(),
    expires_at     timestamptz NOT NULL,
    in_progress_at timestamptz,
    cancelling_at  timestamptz,
    finalizing_at  timestamptz,
    ended_at       timestamptz,
    webhook        text
) WITH (fillfactor = 50);
CREATE INDEX batches_of_tenant ON batches (tenant, created_at, id);
CREATE INDEX batches_active ON batches (created_at, id) WHERE ended_at IS NULL;
CREATE INDEX batches_ended ON batches (ended_at) WHERE ended_at IS NOT NULL;

-- The body has the format of OpenAI's webhooks.
CREATE FUNCTION notify_of_batch() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    event CONSTANT text := 'evt_' || regexp_replace(NEW.id, '^batch_', '');
BEGIN
    INSERT INTO jobs (kind, key, tenant, payload)
    VALUES ('notice', event, NEW.tenant, jsonb_build_object(
        'url', NEW.webhook,
        'about', NEW.id,
        'body', jsonb_build_object(
            'id', event,
            'object', 'event',
            'created_at', extract(epoch FROM NEW.ended_at)::bigint,
            'type', 'batch.' || NEW.status,
            'data', jsonb_build_object('id', NEW.id))))
    ON CONFLICT (kind, key) DO NOTHING;
    RETURN NULL;
END
$$;
CREATE TRIGGER notify_of_ended_batch AFTER UPDATE OF ended_at ON batches
    FOR EACH ROW WHEN (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL AND NEW.webhook IS NOT NULL)
    EXECUTE FUNCTION notify_of_batch();

-- A line of a batch that has not ended.
CREATE TABLE batch_lines (
    batch_id   text NOT NULL REFERENCES batches ON DELETE CASCADE,
    line       integer NOT NULL,
    custom_id  text NOT NULL,
    start      bigint NOT NULL,              -- byte in the input file
    size       integer NOT NULL,
    -- sending: it has the id of its request, which may be stored; sent: it is stored.
    state      text NOT NULL DEFAULT 'waiting' CHECK (state IN (
        'waiting', 'sending', 'sent', 'succeeded', 'failed')),
    request_id uuid,
    result     json,
    PRIMARY KEY (batch_id, line)
) WITH (fillfactor = 70);
CREATE INDEX batch_lines_by_state ON batch_lines (batch_id, state, line);


-- Workflows

-- A definition that a tenant has registered.
CREATE TABLE workflows (
    tenant     text NOT NULL,
    name       text NOT NULL,
    definition json NOT NULL,
    source     json NOT NULL,                -- as it was sent
    public     boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant, name)
);

-- A request to a workflow that has started, with the definition that it runs.
CREATE TABLE workflow_runs (
    request_id uuid PRIMARY KEY,
    tenant     text NOT NULL,
    definition json,                         -- null: the workflow was deleted before
    started_at timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz                   -- all its steps have ended too
) WITH (fillfactor = 80);
CREATE INDEX workflow_runs_active ON workflow_runs (started_at, request_id) WHERE ended_at IS NULL;
CREATE INDEX workflow_runs_of_tenant ON workflow_runs (tenant);

CREATE TABLE workflow_steps (
    run_id     uuid NOT NULL REFERENCES workflow_runs ON DELETE CASCADE,
    node       text NOT NULL,
    item       integer NOT NULL,
    app        text NOT NULL,
    request_id uuid NOT NULL,
    -- sending: its request has an id, and may be stored; sent: it is stored.
    state      text NOT NULL DEFAULT 'sending' CHECK (state IN ('sending', 'sent', 'ended')),
    input      json,
    outcome    json,
    refused    text,                         -- why its request was not stored; null: it was not refused
    waits      text,                         -- while sending: why its request is not accepted yet
    PRIMARY KEY (run_id, node, item)
) WITH (fillfactor = 70);
CREATE INDEX workflow_steps_of_request ON workflow_steps (request_id);
CREATE INDEX workflow_steps_unended ON workflow_steps (run_id) WHERE state <> 'ended';


-- Hosted providers, fallbacks and shadows

-- What was sent to a hosted provider for a request. A row is written before the socket is opened.
-- sending: it may have been accepted. accepted: the provider's id is known. refused: it was surely not
-- accepted. unconfirmed: nobody knows. repeated: the same, and the request was sent again.
CREATE TABLE hosted_calls (
    id          text PRIMARY KEY,            -- sent along where the provider takes a mark
    request_id  uuid NOT NULL,
    tenant      text NOT NULL,
    attempt     integer NOT NULL,
    provider    text NOT NULL,               -- a family, and the origin of its server
    owner       text NOT NULL,               -- of the secret that it was sent with
    endpoint    text NOT NULL,               -- the provider's
    input_hash  text NOT NULL,
    state       text NOT NULL DEFAULT 'sending' CHECK (state IN (
        'sending', 'accepted', 'refused', 'unconfirmed', 'repeated')),
    provider_id text,
    place       json,                        -- of the provider's job: its URLs
    sent_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);
-- A request has at most one call that may cost money.
CREATE UNIQUE INDEX hosted_calls_of_request ON hosted_calls (request_id)
    WHERE state IN ('sending', 'accepted', 'unconfirmed');
-- A job of a provider belongs to one call.
CREATE UNIQUE INDEX hosted_calls_by_provider ON hosted_calls (provider, provider_id)
    WHERE provider_id IS NOT NULL;
-- Of equal calls whose answer may be lost, only one is under way, so that a list of the provider tells
-- which it is.
CREATE UNIQUE INDEX hosted_calls_sending ON hosted_calls (provider, owner, endpoint, input_hash)
    WHERE state = 'sending';
CREATE INDEX hosted_calls_by_request ON hosted_calls (request_id);
CREATE INDEX hosted_calls_of_tenant ON hosted_calls (tenant);

CREATE FUNCTION forget_hosted_calls() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM hosted_calls WHERE request_id = OLD.id;
    RETURN NULL;
END
$$;
CREATE TRIGGER forget_deleted_hosted_calls AFTER DELETE ON requests
    FOR EACH ROW EXECUTE FUNCTION forget_hosted_calls();

-- An ingress ends the jobs that no replica goes on with: of requests that were cancelled or too late
-- between two attempts, that fell back to another endpoint, or whose attempt ended without its
-- replica.
CREATE FUNCTION end_unwanted_hosted_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- A replica that has ended the attempt itself has also ended the job, unless the request falls back.
    IF OLD.state = 'running' AND NEW.fell_back_to IS NOT DISTINCT FROM OLD.fell_back_to AND EXISTS (
        SELECT FROM attempts a WHERE a.request_id = NEW.id AND a.attempt = NEW.attempt
          AND a.ended IN ('failed', 'cancelled', 'expired')
    ) THEN
        RETURN NULL;
    END IF;
    -- An answer may still come: then the job is known.
    INSERT INTO jobs (kind, key) SELECT 'hosted', id FROM hosted_calls
    WHERE request_id = NEW.id AND state IN ('sending', 'accepted')
    ON CONFLICT (kind, key) DO NOTHING;
    RETURN NULL;
END
$$;
CREATE TRIGGER end_unwanted_hosted_jobs AFTER UPDATE OF state, fell_back_to ON requests
    FOR EACH ROW WHEN (OLD.state IN ('queued', 'running') AND OLD.attempt > 0 AND (
        NEW.state IN ('cancelled', 'expired', 'failed')
        OR NEW.fell_back_to IS DISTINCT FROM OLD.fell_back_to))
    EXECUTE FUNCTION end_unwanted_hosted_jobs();

-- What requests of an endpoint that fell back are expected to cost, in the current period of its
-- budget.
CREATE TABLE fallback_budgets (
    endpoint text NOT NULL,
    currency text NOT NULL,
    period   timestamptz NOT NULL,           -- its start
    spent    numeric NOT NULL,
    PRIMARY KEY (endpoint, currency)
) WITH (fillfactor = 50);

-- Count a request that falls back; false: its endpoint's budget does not cover it. `plan`: the column
-- `fallback`. The row of the budget is locked until the end of the transaction, so call it in the
-- order of the endpoints.
CREATE FUNCTION spend_on_fallback(of_endpoint text, plan json) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    budget CONSTANT json := plan -> 'budget';
    cost CONSTANT numeric := coalesce((plan ->> 'cost')::numeric, 0);
    most CONSTANT numeric := (budget ->> 'amount')::numeric;
    begun timestamptz;
BEGIN
    IF budget IS NULL THEN
        RETURN true;
    ELSIF cost > most THEN
        RETURN false;
    END IF;
    begun := date_trunc(budget ->> 'period', now(), 'UTC');
    INSERT INTO fallback_budgets AS b (endpoint, currency, period, spent)
    VALUES (of_endpoint, budget ->> 'currency', begun, cost)
    ON CONFLICT (endpoint, currency) DO UPDATE
    SET spent = CASE WHEN b.period >= begun THEN b.spent ELSE 0 END + cost,
        period = greatest(b.period, begun)
    WHERE CASE WHEN b.period >= begun THEN b.spent ELSE 0 END + cost <= most;
    RETURN FOUND;
END
$$;

-- A request of which a copy goes to another endpoint. The statement that stores a request stores its
-- row too. The copy is a request of its own, of the tenant `:shadow`, whose idempotency key is the id
-- of the original.
CREATE TABLE shadows (
    original    uuid PRIMARY KEY,
    tenant      text NOT NULL,
    endpoint    text NOT NULL,
    target      text NOT NULL,
    -- waiting: not paid for; sending: within its budget, and its copy may be stored; sent: its copy is
    -- stored; skipped: it gets none, for `reason`.
    state       text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'sending', 'sent', 'skipped')),
    copy        uuid,
    reason      text NOT NULL DEFAULT ''
) WITH (fillfactor = 80);
CREATE INDEX shadows_open ON shadows (target, original) WHERE state IN ('waiting', 'sending');
CREATE INDEX shadows_skipped ON shadows (original) WHERE state = 'skipped';
CREATE INDEX shadows_of_endpoint ON shadows (endpoint, original);
CREATE INDEX shadows_of_tenant ON shadows (tenant, original);

-- Forget requests, and put the jobs that delete their copies. Returns the requests.
CREATE FUNCTION forget_shadows(originals uuid[]) RETURNS SETOF uuid LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    WITH gone AS (
        DELETE FROM shadows WHERE original = ANY(originals)
        RETURNING original, tenant, target, copy, state
    ),
    put AS (
        INSERT INTO jobs (kind, key, tenant, payload)
        SELECT 'copy', g.original::text, g.tenant,
               jsonb_build_object('target', g.target, 'copy', g.copy, 'state', g.state)
        FROM gone g WHERE g.state <> 'waiting'
        ON CONFLICT (kind, key) DO NOTHING
    )
    SELECT g.original FROM gone g;
END
$$;
CREATE FUNCTION forget_shadow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM forget_shadows(ARRAY[OLD.id]);
    RETURN NULL;
END
$$;
CREATE TRIGGER forget_shadow_of_deleted AFTER DELETE ON requests
    FOR EACH ROW EXECUTE FUNCTION forget_shadow();
CREATE TRIGGER forget_shadow_of_redacted AFTER UPDATE OF forgetting ON requests
    FOR EACH ROW WHEN (NEW.forgetting IS NOT NULL AND OLD.forgetting IS NULL)
    EXECUTE FUNCTION forget_shadow();


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
CREATE INDEX webhook_deliveries_ended ON webhook_deliveries (ended_at) WHERE ended_at IS NOT NULL;

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


-- ComfyUI: what its clients ask for beside their prompts

-- One row.
CREATE TABLE comfyui_nodes (
    key         text PRIMARY KEY,
    digest      text NOT NULL,               -- of the content, hex
    content     bytea NOT NULL,  -- JSON by gzip: nodes and models, as a replica's ComfyUI described them
    reported_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE comfyui_nodes ALTER COLUMN content SET STORAGE EXTERNAL;

CREATE TABLE comfyui_files (
    tenant     text NOT NULL,
    path       text NOT NULL,                -- such as `workflows/portrait.json`
    content    bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, path)
);
ALTER TABLE comfyui_files ALTER COLUMN content SET STORAGE EXTERNAL;
