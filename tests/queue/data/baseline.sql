-- A database of the first release: the tables of 0001_baseline.sql with rows in every state.
-- Made by `python -m tests.queue.data.make_baseline`: do not edit.

CREATE TABLE public.api_keys (
    id text NOT NULL,
    tenant text NOT NULL,
    digest bytea NOT NULL,
    scopes text[] DEFAULT '{}'::text[] NOT NULL,
    name text DEFAULT ''::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone,
    revoked_at timestamp with time zone,
    replay_undelivered boolean DEFAULT false NOT NULL
);

CREATE TABLE public.artifacts (
    key text NOT NULL,
    request_id uuid NOT NULL,
    attempt integer NOT NULL,
    tenant text NOT NULL,
    media_type text NOT NULL,
    size bigint NOT NULL,
    sha256 text NOT NULL,
    width integer,
    height integer,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone
);

CREATE TABLE public.attempts (
    request_id uuid NOT NULL,
    attempt integer NOT NULL,
    replica_id text NOT NULL,
    actor_id text NOT NULL,
    started_at timestamp with time zone DEFAULT now() NOT NULL,
    ended_at timestamp with time zone,
    ended text,
    message text DEFAULT ''::text NOT NULL,
    run_s double precision DEFAULT 0 NOT NULL,
    steps integer DEFAULT 0 NOT NULL,
    units double precision DEFAULT 0 NOT NULL,
    collected boolean DEFAULT false NOT NULL,
    CONSTRAINT attempts_ended_check CHECK ((ended = ANY (ARRAY['succeeded'::text, 'failed'::text, 'cancelled'::text, 'expired'::text, 'retry'::text, 'lost'::text, 'stopped'::text, 'hand_back'::text, 'undo'::text, 'by_hand'::text])))
)
WITH (fillfactor='80', autovacuum_vacuum_scale_factor='0.01');

CREATE TABLE public.audit (
    id bigint NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    subject text DEFAULT ''::text NOT NULL,
    detail json
);

ALTER TABLE public.audit ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.audit_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.costs (
    endpoint text NOT NULL,
    pool text NOT NULL,
    n double precision NOT NULL,
    work double precision NOT NULL,
    seconds double precision NOT NULL,
    work_work double precision NOT NULL,
    work_seconds double precision NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.01');

CREATE TABLE public.events (
    request_id uuid NOT NULL,
    sequence integer NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    level text DEFAULT 'INFO'::text NOT NULL,
    state text,
    message text NOT NULL
);

CREATE TABLE public.fair_lanes (
    pool text NOT NULL,
    tenant text NOT NULL,
    active boolean DEFAULT true NOT NULL,
    weight double precision DEFAULT 1 NOT NULL,
    vtime double precision DEFAULT 0 NOT NULL,
    rested boolean DEFAULT true NOT NULL,
    served double precision DEFAULT 0 NOT NULL,
    woken_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT fair_lanes_weight_check CHECK ((weight > (0)::double precision))
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.01');

CREATE TABLE public.halts (
    endpoint text NOT NULL,
    kind text NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    actor text NOT NULL,
    CONSTRAINT halts_kind_check CHECK ((kind = ANY (ARRAY['paused'::text, 'draining'::text])))
);

CREATE TABLE public.installation (
    key text NOT NULL,
    value text NOT NULL
);

CREATE TABLE public.lifecycles (
    request_id uuid NOT NULL,
    keep_s double precision NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    due_at timestamp with time zone
);

CREATE TABLE public.migrations (
    number integer NOT NULL,
    name text NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL,
    compatible_since integer
);

CREATE UNLOGGED TABLE public.progress (
    request_id uuid NOT NULL,
    attempt integer NOT NULL,
    stage text NOT NULL,
    step bigint NOT NULL,
    steps bigint NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    rate double precision DEFAULT 0 NOT NULL,
    preview bytea,
    preview_step bigint DEFAULT 0 NOT NULL,
    watched_until timestamp with time zone
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.01');
ALTER TABLE ONLY public.progress ALTER COLUMN preview SET STORAGE EXTERNAL;

CREATE UNLOGGED TABLE public.replicas (
    replica_id text NOT NULL,
    actor_id text NOT NULL,
    pool text NOT NULL,
    stage text NOT NULL,
    detail text DEFAULT ''::text NOT NULL,
    slots integer DEFAULT 1 NOT NULL,
    busy_at timestamp with time zone,
    seen_at timestamp with time zone DEFAULT now() NOT NULL,
    loading json DEFAULT '[]'::json NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.01');

CREATE TABLE public.requests (
    id uuid NOT NULL,
    place bigint NOT NULL,
    tenant text NOT NULL,
    endpoint text NOT NULL,
    endpoint_digest text NOT NULL,
    pool text NOT NULL,
    priority smallint NOT NULL,
    state text NOT NULL,
    input json NOT NULL,
    attempt integer DEFAULT 0 NOT NULL,
    failures integer DEFAULT 0 NOT NULL,
    unconfirmed integer DEFAULT 0 NOT NULL,
    confirmed boolean DEFAULT false NOT NULL,
    alone boolean DEFAULT false NOT NULL,
    cancel_requested boolean DEFAULT false NOT NULL,
    replica_id text,
    actor_id text,
    lease_until timestamp with time zone,
    start_by timestamp with time zone,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    outcome json,
    events integer DEFAULT 0 NOT NULL,
    idempotency_key text,
    body_digest bytea,
    webhook_url text,
    snapshot text,
    snapshot_step integer,
    reuse_digest bytea,
    reuses uuid,
    ranked_at timestamp with time zone DEFAULT now() NOT NULL,
    work double precision DEFAULT 1 NOT NULL,
    expected_s double precision DEFAULT 1 NOT NULL,
    end_by timestamp with time zone,
    previews boolean DEFAULT true NOT NULL,
    deleted_at timestamp with time zone,
    forgetting text,
    webhook_origin text,
    retries_left smallint[],
    leads uuid,
    follows uuid,
    shown json,
    CONSTRAINT requests_check CHECK (((state = 'running'::text) = (lease_until IS NOT NULL))),
    CONSTRAINT requests_follows_check CHECK (((state = 'following'::text) = (follows IS NOT NULL))),
    CONSTRAINT requests_forgetting_check CHECK ((forgetting = ANY (ARRAY['input'::text, 'outcome'::text, 'done'::text]))),
    CONSTRAINT requests_outcome_check CHECK (((state = ANY (ARRAY['queued'::text, 'following'::text, 'running'::text])) = (outcome IS NULL))),
    CONSTRAINT requests_state_check CHECK ((state = ANY (ARRAY['queued'::text, 'following'::text, 'running'::text, 'succeeded'::text, 'failed'::text, 'cancelled'::text, 'expired'::text])))
)
WITH (fillfactor='80', autovacuum_vacuum_scale_factor='0.01', autovacuum_analyze_scale_factor='0.02');

ALTER TABLE public.requests ALTER COLUMN place ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.requests_place_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

CREATE TABLE public.tenants (
    id text NOT NULL,
    name text DEFAULT ''::text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    disabled_at timestamp with time zone
);

CREATE TABLE public.undelivered (
    request_id uuid NOT NULL,
    api_key text NOT NULL,
    body_digest bytea NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE public.unwanted (
    key text NOT NULL,
    due_at timestamp with time zone NOT NULL
);

CREATE TABLE public.upload_parts (
    key text NOT NULL,
    number integer NOT NULL,
    etag text NOT NULL,
    size bigint NOT NULL
);

CREATE TABLE public.uploads (
    key text NOT NULL,
    id text NOT NULL,
    tenant text NOT NULL,
    media_type text NOT NULL,
    keep_s double precision,
    parts_id text,
    state text DEFAULT 'open'::text NOT NULL,
    size bigint,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    due_at timestamp with time zone,
    CONSTRAINT uploads_check CHECK (((state = 'whole'::text) <= (size IS NOT NULL))),
    CONSTRAINT uploads_state_check CHECK ((state = ANY (ARRAY['open'::text, 'whole'::text, 'unwanted'::text])))
);

CREATE TABLE public.usage (
    request_id uuid NOT NULL,
    tenant text NOT NULL,
    endpoint text NOT NULL,
    state text NOT NULL,
    attempt integer NOT NULL,
    run_s double precision NOT NULL,
    steps integer NOT NULL,
    units double precision NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL
);

CREATE TABLE public.webhook_deliveries (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    request_id uuid NOT NULL,
    tenant text NOT NULL,
    url text NOT NULL,
    state text DEFAULT 'pending'::text NOT NULL,
    tries integer DEFAULT 0 NOT NULL,
    due_at timestamp with time zone DEFAULT now() NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    host text GENERATED ALWAYS AS (COALESCE(lower("substring"(url, '^[a-z]+://(?:[^/?#@]*@)?([^/?#]+)'::text)), ''::text)) STORED NOT NULL,
    claims integer DEFAULT 0 NOT NULL,
    since timestamp with time zone DEFAULT now() NOT NULL,
    ended_at timestamp with time zone,
    body bytea,
    status integer,
    error text DEFAULT ''::text NOT NULL,
    CONSTRAINT webhook_deliveries_state_check CHECK ((state = ANY (ARRAY['pending'::text, 'delivered'::text, 'dead'::text])))
)
WITH (autovacuum_vacuum_scale_factor='0.01');

CREATE TABLE public.webhook_keys (
    kid text NOT NULL,
    seed text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    signs_from timestamp with time zone NOT NULL
);

CREATE TABLE public.webhook_tries (
    delivery uuid NOT NULL,
    claim integer NOT NULL,
    at timestamp with time zone DEFAULT now() NOT NULL,
    took_s double precision NOT NULL,
    status integer,
    error text DEFAULT ''::text NOT NULL
);

INSERT INTO public.api_keys (id, tenant, digest, scopes, name, created_at, expires_at, revoked_at, replay_undelivered) VALUES
	('dk_valid', 'ann', '\x8fd6a6a78f5857d7ba1cfe9033bffeec86da2ba6a4bd60a6f833209d9d3e390d', '{admin,api}', 'valid', '2026-11-22 00:25:21.644615+00', NULL, NULL, false),
	('dk_replaying', 'ann', '\x8fd6a6a78f5857d7ba1cfe9033bffeec86da2ba6a4bd60a6f833209d9d3e390d', '{api}', '', '2026-11-22 00:25:21.675426+00', NULL, NULL, true),
	('dk_expired', 'bob', '\x8fd6a6a78f5857d7ba1cfe9033bffeec86da2ba6a4bd60a6f833209d9d3e390d', '{api}', '', '2026-11-22 00:25:21.704503+00', '2026-11-22 00:25:21.622382+00', NULL, false),
	('dk_revoked', 'bob', '\x8fd6a6a78f5857d7ba1cfe9033bffeec86da2ba6a4bd60a6f833209d9d3e390d', '{api}', '', '2026-11-22 00:25:21.755823+00', NULL, '2026-11-22 00:25:21.7599+00', false),
	('dk_of_a_disabled_tenant', 'carl', '\x8fd6a6a78f5857d7ba1cfe9033bffeec86da2ba6a4bd60a6f833209d9d3e390d', '{api}', '', '2026-11-22 00:25:21.856659+00', NULL, NULL, false);

INSERT INTO public.artifacts (key, request_id, attempt, tenant, media_type, size, sha256, width, height, created_at, expires_at) VALUES
	('019b0000-0000-7000-8000-000000000000/1/0.png', '019b0000-0000-7000-8000-000000000000', 1, 'ann', 'image/png', 3, 'abababababababababababababababababababababababababababababababab', 8, 8, '2026-11-22 00:25:21.958641+00', NULL),
	('019b0000-0000-7000-8000-000000000001/1/0.png', '019b0000-0000-7000-8000-000000000001', 7, 'ann', 'image/png', 3, 'abababababababababababababababababababababababababababababababab', 8, 8, '2026-11-22 00:25:22.448421+00', NULL),
	('019b0000-0000-7000-8000-000000000003/1/0.png', '019b0000-0000-7000-8000-000000000003', 1, 'ann', 'image/png', 3, 'abababababababababababababababababababababababababababababababab', 8, 8, '2026-11-22 00:25:22.51727+00', NULL),
	('019b0000-0000-7000-8000-00000000000e/1/0.png', '019b0000-0000-7000-8000-00000000000e', 1, 'bob', 'image/png', 3, 'abababababababababababababababababababababababababababababababab', 8, 8, '2026-11-22 00:25:22.630717+00', NULL),
	('019b0000-0000-7000-8000-00000000000c/1/0.png', '019b0000-0000-7000-8000-00000000000c', 1, 'ann', 'image/png', 3, 'abababababababababababababababababababababababababababababababab', 8, 8, '2026-11-22 00:25:22.894588+00', NULL),
	('019b0000-0000-7000-8000-00000000000b/1/0.png', '019b0000-0000-7000-8000-00000000000b', 1, 'ann', 'image/png', 3, 'abababababababababababababababababababababababababababababababab', 8, 8, '2026-11-22 00:25:23.028974+00', NULL);

INSERT INTO public.attempts (request_id, attempt, replica_id, actor_id, started_at, ended_at, ended, message, run_s, steps, units, collected) VALUES
	('019b0000-0000-7000-8000-000000000000', 1, 'r1', 'actor-r1', '2026-11-22 00:25:21.925779+00', '2026-11-22 00:25:21.958641+00', 'succeeded', 'Succeeded.', 1.5, 4, 1, false),
	('019b0000-0000-7000-8000-000000000001', 3, 'r1', 'actor-r1', '2026-11-22 00:25:22.101451+00', '2026-11-22 00:25:22.124111+00', 'undo', 'The replica disconnected', 0, 0, 0, false),
	('019b0000-0000-7000-8000-000000000001', 1, 'r1', 'actor-r1', '2026-11-22 00:25:22.006907+00', '2026-11-22 00:25:22.072988+00', 'retry', 'It went wrong: pipeline_failed.', 0, 0, 0, true),
	('019b0000-0000-7000-8000-000000000001', 2, 'r1', 'actor-r1', '2026-11-22 00:25:22.082147+00', '2026-11-22 00:25:22.092081+00', 'hand_back', 'Replica r1 handed the request back: It drains.', 0, 0, 0, true),
	('019b0000-0000-7000-8000-000000000001', 4, 'r1', 'actor-r1', '2026-11-22 00:25:22.15177+00', '2026-11-22 00:25:22.167911+00', 'by_hand', 'Taken from its replica by an operator', 0, 0, 0, true),
	('019b0000-0000-7000-8000-000000000001', 5, 'stopped', 'actor-stopped', '2026-11-22 00:25:22.185893+00', '2026-11-22 00:25:22.272996+00', 'stopped', 'Darkroom was stopped, and with it replica stopped', 0, 0, 0, true),
	('019b0000-0000-7000-8000-000000000001', 6, 'dead', 'actor-dead', '2026-11-22 00:25:22.309393+00', '2026-11-22 00:25:22.400859+00', 'lost', 'The process ended on replica dead', 0, 0, 0, true),
	('019b0000-0000-7000-8000-000000000001', 7, 'r1', 'actor-r1', '2026-11-22 00:25:22.429007+00', '2026-11-22 00:25:22.448421+00', 'succeeded', 'Succeeded.', 1.5, 4, 1, false),
	('019b0000-0000-7000-8000-000000000003', 1, 'r1', 'actor-r1', '2026-11-22 00:25:22.494137+00', '2026-11-22 00:25:22.51727+00', 'succeeded', 'Succeeded.', 1.5, 4, 1, false),
	('019b0000-0000-7000-8000-000000000005', 1, 'r1', 'actor-r1', '2026-11-22 00:25:22.578446+00', '2026-11-22 00:25:22.588439+00', 'failed', 'It went wrong: pipeline_failed.', 0, 0, 0, true),
	('019b0000-0000-7000-8000-00000000000e', 1, 'r1', 'actor-r1', '2026-11-22 00:25:22.618892+00', '2026-11-22 00:25:22.630717+00', 'succeeded', 'Succeeded.', 1.5, 4, 1, false),
	('019b0000-0000-7000-8000-000000000008', 1, 'r1', 'actor-r1', '2026-11-22 00:25:22.676427+00', '2026-11-22 00:25:22.70132+00', 'cancelled', 'The request was cancelled.', 0, 0, 0, true),
	('019b0000-0000-7000-8000-00000000000a', 1, 'r1', 'actor-r1', '2026-11-22 00:25:22.82544+00', '2026-11-22 00:25:22.834424+00', 'expired', 'The request did not end within the time that its X-Darkroom-Deadline allowed.', 0, 0, 0, true),
	('019b0000-0000-7000-8000-00000000000c', 1, 'r1', 'actor-r1', '2026-11-22 00:25:22.888657+00', '2026-11-22 00:25:22.894588+00', 'succeeded', '', 1.5, 4, 1, false),
	('019b0000-0000-7000-8000-00000000000b', 1, 'r1', 'actor-r1', '2026-11-22 00:25:23.020577+00', '2026-11-22 00:25:23.028974+00', 'succeeded', 'Succeeded.', 1.5, 4, 1, false),
	('019b0000-0000-7000-8000-00000000000d', 1, 'r1', 'actor-r1', '2026-11-22 00:25:23.094471+00', '2026-11-22 00:25:23.125105+00', 'succeeded', 'Succeeded.', 2, 0, 0, false),
	('019b0000-0000-7000-8000-00000000000f', 1, 'r1', 'actor-r1', '2026-11-22 00:25:23.259053+00', NULL, NULL, '', 0, 0, 0, false),
	('019b0000-0000-7000-8000-000000000011', 1, 'r2', 'actor-r2', '2026-11-22 00:25:23.285129+00', NULL, NULL, '', 0, 0, 0, false),
	('019b0000-0000-7000-8000-000000000012', 1, 'r3', 'actor-r3', '2026-11-22 00:25:23.361079+00', NULL, NULL, '', 0, 0, 0, false),
	('019b0000-0000-7000-8000-000000000010', 1, 'r4', 'actor-r4', '2026-11-22 00:25:23.381079+00', NULL, NULL, '', 0, 0, 0, false),
	('019b0000-0000-7000-8000-000000000018', 1, 'r1', 'actor-r1', '2026-11-22 00:25:23.408891+00', '2026-11-22 00:25:23.450383+00', 'hand_back', 'Replica r1 handed the request back: It drains.', 0, 0, 0, true),
	('019b0000-0000-7000-8000-000000000017', 1, 'dead too', 'actor-dead too', '2026-11-22 00:25:23.390053+00', '2026-11-22 00:25:23.45641+00', 'lost', 'The process ended on replica dead too', 0, 0, 0, true),
	('019b0000-0000-7000-8000-000000000019', 1, 'r1', 'actor-r1', '2026-11-22 00:25:23.434242+00', '2026-11-22 00:25:23.458352+00', 'by_hand', 'Taken from its replica by an operator', 0, 0, 0, true);

INSERT INTO public.audit (id, at, actor, action, subject, detail) OVERRIDING SYSTEM VALUE VALUES
	(1, '2026-11-22 00:25:21.644615+00', 'operator', 'key.create', 'dk_valid', '{"tenant": "ann", "alias": "valid", "scopes": ["admin", "api"]}'),
	(2, '2026-11-22 00:25:21.7599+00', 'dk_valid', 'key.revoke', 'dk_revoked', '{"tenant" : "bob"}'),
	(3, '2026-11-22 00:25:21.891749+00', 'dk_valid', 'webhook.rotate', 'whk_02b758d6505e5c3d', '{"at_once":false}'),
	(4, '2026-11-22 00:25:22.167911+00', 'dk_valid', 'request.requeue', '019b0000-0000-7000-8000-000000000001', '{}'),
	(5, '2026-11-22 00:25:22.600433+00', 'dk_valid', 'request.fail', '019b0000-0000-7000-8000-000000000006', '{"reason":"It blocks the others."}'),
	(6, '2026-11-22 00:25:23.170355+00', 'dk_valid', 'webhook.redeliver', '019b0000-0000-7000-8000-000000000004', NULL),
	(7, '2026-11-22 00:25:23.458352+00', 'dk_valid', 'request.requeue', '019b0000-0000-7000-8000-000000000019', '{}'),
	(8, '2026-11-22 00:25:23.559679+00', 'dk_valid', 'endpoint.pause', 'fal-ai/paused', NULL),
	(9, '2026-11-22 00:25:23.570768+00', 'dk_valid', 'endpoint.drain', 'fal-ai/draining', NULL);

INSERT INTO public.costs (endpoint, pool, n, work, seconds, work_work, work_seconds) VALUES
	('fal-ai/flux/schnell', 'studio', 6.593723337664, 6.593723337664, 9.890585006495998, 6.593723337664, 9.890585006495998),
	('fal-ai/flux/schnell', 'live', 1, 1, 2, 1, 2);

INSERT INTO public.events (request_id, sequence, at, level, state, message) VALUES
	('019b0000-0000-7000-8000-000000000000', 1, '2026-11-22 00:25:21.906608+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000000', 2, '2026-11-22 00:25:21.925779+00', 'INFO', 'running', 'Attempt 1 started on replica r1.'),
	('019b0000-0000-7000-8000-000000000000', 3, '2026-11-22 00:25:21.958641+00', 'INFO', 'succeeded', 'Succeeded.'),
	('019b0000-0000-7000-8000-000000000001', 1, '2026-11-22 00:25:21.990299+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000001', 2, '2026-11-22 00:25:22.006907+00', 'INFO', 'running', 'Attempt 1 started on replica r1.'),
	('019b0000-0000-7000-8000-000000000001', 3, '2026-11-22 00:25:22.072988+00', 'WARNING', 'queued', 'It went wrong: pipeline_failed.; queued again.'),
	('019b0000-0000-7000-8000-000000000001', 4, '2026-11-22 00:25:22.082147+00', 'INFO', 'running', 'Attempt 2 started on replica r1.'),
	('019b0000-0000-7000-8000-000000000001', 5, '2026-11-22 00:25:22.092081+00', 'INFO', 'queued', 'Replica r1 handed the request back: It drains.; queued again.'),
	('019b0000-0000-7000-8000-000000000001', 6, '2026-11-22 00:25:22.101451+00', 'INFO', 'running', 'Attempt 3 started on replica r1.'),
	('019b0000-0000-7000-8000-000000000001', 7, '2026-11-22 00:25:22.124111+00', 'INFO', 'queued', 'The replica disconnected; queued again.'),
	('019b0000-0000-7000-8000-000000000001', 8, '2026-11-22 00:25:22.15177+00', 'INFO', 'running', 'Attempt 4 started on replica r1.'),
	('019b0000-0000-7000-8000-000000000001', 9, '2026-11-22 00:25:22.167911+00', 'INFO', 'queued', 'Taken from its replica by an operator; queued again.'),
	('019b0000-0000-7000-8000-000000000001', 10, '2026-11-22 00:25:22.185893+00', 'INFO', 'running', 'Attempt 5 started on replica stopped.'),
	('019b0000-0000-7000-8000-000000000001', 11, '2026-11-22 00:25:22.272996+00', 'WARNING', 'queued', 'Darkroom was stopped, and with it replica stopped; queued again.'),
	('019b0000-0000-7000-8000-000000000001', 12, '2026-11-22 00:25:22.309393+00', 'INFO', 'running', 'Attempt 6 started on replica dead.'),
	('019b0000-0000-7000-8000-000000000001', 13, '2026-11-22 00:25:22.400859+00', 'WARNING', 'queued', 'The process ended on replica dead; queued again.'),
	('019b0000-0000-7000-8000-000000000001', 14, '2026-11-22 00:25:22.429007+00', 'INFO', 'running', 'Attempt 7 started on replica r1.'),
	('019b0000-0000-7000-8000-000000000001', 15, '2026-11-22 00:25:22.448421+00', 'INFO', 'succeeded', 'Succeeded.'),
	('019b0000-0000-7000-8000-000000000002', 1, '2026-11-22 00:25:22.470171+00', 'INFO', 'succeeded', 'Succeeded. The outcome was reused from request 019b0000-0000-7000-8000-000000000000, which had the same input.'),
	('019b0000-0000-7000-8000-000000000003', 1, '2026-11-22 00:25:22.481764+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000003', 2, '2026-11-22 00:25:22.494137+00', 'INFO', 'running', 'Attempt 1 started on replica r1.'),
	('019b0000-0000-7000-8000-000000000004', 1, '2026-11-22 00:25:22.505697+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000004', 2, '2026-11-22 00:25:22.505697+00', 'INFO', NULL, 'Request 019b0000-0000-7000-8000-000000000003 has the same input; its outcome will be reused.'),
	('019b0000-0000-7000-8000-000000000003', 3, '2026-11-22 00:25:22.51727+00', 'INFO', 'succeeded', 'Succeeded.'),
	('019b0000-0000-7000-8000-000000000004', 3, '2026-11-22 00:25:22.521694+00', 'INFO', 'succeeded', 'Succeeded. The outcome was reused from request 019b0000-0000-7000-8000-000000000003, which had the same input.'),
	('019b0000-0000-7000-8000-000000000005', 1, '2026-11-22 00:25:22.573947+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000005', 2, '2026-11-22 00:25:22.578446+00', 'INFO', 'running', 'Attempt 1 started on replica r1.'),
	('019b0000-0000-7000-8000-000000000005', 3, '2026-11-22 00:25:22.588439+00', 'ERROR', 'failed', 'It went wrong: pipeline_failed.'),
	('019b0000-0000-7000-8000-000000000006', 1, '2026-11-22 00:25:22.591189+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000006', 2, '2026-11-22 00:25:22.600433+00', 'INFO', 'failed', 'An operator of this installation ended the request: It blocks the others.'),
	('019b0000-0000-7000-8000-00000000000e', 1, '2026-11-22 00:25:22.6134+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-00000000000e', 2, '2026-11-22 00:25:22.618892+00', 'INFO', 'running', 'Attempt 1 started on replica r1.'),
	('019b0000-0000-7000-8000-00000000000e', 3, '2026-11-22 00:25:22.630717+00', 'INFO', 'succeeded', 'Succeeded.'),
	('019b0000-0000-7000-8000-000000000007', 1, '2026-11-22 00:25:22.633812+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000007', 2, '2026-11-22 00:25:22.653783+00', 'INFO', 'cancelled', 'Cancelled while it was queued.'),
	('019b0000-0000-7000-8000-000000000008', 1, '2026-11-22 00:25:22.659352+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000008', 2, '2026-11-22 00:25:22.676427+00', 'INFO', 'running', 'Attempt 1 started on replica r1.'),
	('019b0000-0000-7000-8000-000000000008', 3, '2026-11-22 00:25:22.692678+00', 'INFO', NULL, 'Cancel requested; the request stops at its next step.'),
	('019b0000-0000-7000-8000-000000000008', 4, '2026-11-22 00:25:22.70132+00', 'INFO', 'cancelled', 'The request was cancelled.'),
	('019b0000-0000-7000-8000-000000000009', 1, '2026-11-22 00:25:22.70612+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000009', 2, '2026-11-22 00:25:22.793153+00', 'INFO', 'expired', 'The request did not start within the time that it allowed.'),
	('019b0000-0000-7000-8000-00000000000a', 1, '2026-11-22 00:25:22.819308+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-00000000000a', 2, '2026-11-22 00:25:22.82544+00', 'INFO', 'running', 'Attempt 1 started on replica r1.'),
	('019b0000-0000-7000-8000-00000000000a', 3, '2026-11-22 00:25:22.834424+00', 'INFO', 'expired', 'The request did not end within the time that its X-Darkroom-Deadline allowed.'),
	('019b0000-0000-7000-8000-00000000000b', 1, '2026-11-22 00:25:23.014315+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-00000000000b', 2, '2026-11-22 00:25:23.020577+00', 'INFO', 'running', 'Attempt 1 started on replica r1.'),
	('019b0000-0000-7000-8000-00000000000b', 3, '2026-11-22 00:25:23.028974+00', 'INFO', 'succeeded', 'Succeeded.'),
	('019b0000-0000-7000-8000-00000000000d', 1, '2026-11-22 00:25:23.087668+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-00000000000d', 2, '2026-11-22 00:25:23.094471+00', 'INFO', 'running', 'Attempt 1 started on replica r1.'),
	('019b0000-0000-7000-8000-00000000000d', 3, '2026-11-22 00:25:23.125105+00', 'INFO', 'succeeded', 'Succeeded.'),
	('019b0000-0000-7000-8000-00000000000f', 1, '2026-11-22 00:25:23.255531+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-00000000000f', 2, '2026-11-22 00:25:23.259053+00', 'INFO', 'running', 'Attempt 1 started on replica r1.'),
	('019b0000-0000-7000-8000-000000000011', 1, '2026-11-22 00:25:23.281316+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000011', 2, '2026-11-22 00:25:23.285129+00', 'INFO', 'running', 'Attempt 1 started on replica r2.'),
	('019b0000-0000-7000-8000-000000000011', 3, '2026-11-22 00:25:23.29961+00', 'INFO', NULL, 'Cancel requested; the request stops at its next step.'),
	('019b0000-0000-7000-8000-000000000012', 1, '2026-11-22 00:25:23.32678+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000012', 2, '2026-11-22 00:25:23.361079+00', 'INFO', 'running', 'Attempt 1 started on replica r3.'),
	('019b0000-0000-7000-8000-000000000010', 1, '2026-11-22 00:25:23.37814+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000010', 2, '2026-11-22 00:25:23.381079+00', 'INFO', 'running', 'Attempt 1 started on replica r4.'),
	('019b0000-0000-7000-8000-000000000017', 1, '2026-11-22 00:25:23.386698+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000017', 2, '2026-11-22 00:25:23.390053+00', 'INFO', 'running', 'Attempt 1 started on replica dead too.'),
	('019b0000-0000-7000-8000-000000000018', 1, '2026-11-22 00:25:23.40404+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000018', 2, '2026-11-22 00:25:23.408891+00', 'INFO', 'running', 'Attempt 1 started on replica r1.'),
	('019b0000-0000-7000-8000-000000000019', 1, '2026-11-22 00:25:23.425628+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000019', 2, '2026-11-22 00:25:23.434242+00', 'INFO', 'running', 'Attempt 1 started on replica r1.'),
	('019b0000-0000-7000-8000-000000000018', 3, '2026-11-22 00:25:23.450383+00', 'INFO', 'queued', 'Replica r1 handed the request back: It drains.; queued again.'),
	('019b0000-0000-7000-8000-000000000017', 3, '2026-11-22 00:25:23.45641+00', 'WARNING', 'queued', 'The process ended on replica dead too; queued again.'),
	('019b0000-0000-7000-8000-000000000019', 3, '2026-11-22 00:25:23.458352+00', 'INFO', 'queued', 'Taken from its replica by an operator; queued again.'),
	('019b0000-0000-7000-8000-000000000013', 1, '2026-11-22 00:25:23.481333+00', 'INFO', 'queued', 'Queued. Retries left: timeout 1, server error 2, connection error 0.'),
	('019b0000-0000-7000-8000-000000000013', 2, '2026-11-22 00:25:23.481333+00', 'WARNING', NULL, 'The seed was rounded.'),
	('019b0000-0000-7000-8000-000000000014', 1, '2026-11-22 00:25:23.485718+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000016', 1, '2026-11-22 00:25:23.499807+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-00000000001d', 1, '2026-11-22 00:25:23.539338+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-000000000015', 1, '2026-11-22 00:25:23.491004+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-00000000001a', 1, '2026-11-22 00:25:23.507352+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-00000000001e', 1, '2026-11-22 00:25:23.514402+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-00000000001e', 2, '2026-11-22 00:25:23.514402+00', 'INFO', NULL, 'Request 019b0000-0000-7000-8000-000000000012 has the same input; its outcome will be reused.'),
	('019b0000-0000-7000-8000-00000000001f', 1, '2026-11-22 00:25:23.518862+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-00000000001f', 2, '2026-11-22 00:25:23.518862+00', 'INFO', NULL, 'Request 019b0000-0000-7000-8000-00000000001a has the same input; its outcome will be reused.'),
	('019b0000-0000-7000-8000-00000000001b', 1, '2026-11-22 00:25:23.526302+00', 'INFO', 'queued', 'Queued.'),
	('019b0000-0000-7000-8000-00000000001c', 1, '2026-11-22 00:25:23.536256+00', 'INFO', 'queued', 'Queued.');

INSERT INTO public.fair_lanes (pool, tenant, active, weight, vtime, rested, served, woken_at) VALUES
	('live', 'ann', false, 1, 2.4, true, 0, '2026-11-22 00:25:23.084813+00'),
	('studio', 'bob', true, 1, 19.314595, true, 5.7707250000000005, '2026-11-22 00:25:23.52673+00'),
	('other', 'ann', true, 1, 0, true, 0, '2026-11-22 00:25:23.532526+00'),
	('studio', 'ann', true, 1, 16.446554000000003, true, 19.314595, '2026-11-22 00:25:23.451015+00');

INSERT INTO public.halts (endpoint, kind, at, actor) VALUES
	('fal-ai/paused', 'paused', '2026-11-22 00:25:23.559679+00', 'dk_valid'),
	('fal-ai/draining', 'draining', '2026-11-22 00:25:23.570768+00', 'dk_valid');

INSERT INTO public.installation (key, value) VALUES
	('tickets', '93461371fe99b9672acf5dcd8538a1df744a93aba05bf3a163cb2f89c25dc58d');

INSERT INTO public.lifecycles (request_id, keep_s, created_at, due_at) VALUES
	('019b0000-0000-7000-8000-000000000000', 3600, '2026-11-22 00:25:21.897089+00', '2026-11-22 01:25:21.958641+00'),
	('019b0000-0000-7000-8000-000000000013', 60, '2026-11-22 00:25:23.472489+00', NULL);

INSERT INTO public.migrations (number, name, applied_at, compatible_since) VALUES
	(1, '0001_baseline.sql', '2026-11-22 00:25:21.409448+00', NULL);

INSERT INTO public.progress (request_id, attempt, stage, step, steps, at, rate, preview, preview_step, watched_until) VALUES
	('019b0000-0000-7000-8000-00000000000f', 1, 'denoising', 12, 30, '2026-11-22 00:25:23.268407+00', 2.5, '\xffd8ffe000104a46494600010100000100010000ffd9', 12, '2026-11-22 00:25:28.280389+00'),
	('019b0000-0000-7000-8000-000000000011', 1, 'downloading', 3000000000, 23000000000, '2026-11-22 00:25:23.297035+00', 100000000, NULL, 0, NULL);

INSERT INTO public.replicas (replica_id, actor_id, pool, stage, detail, slots, busy_at, seen_at, loading) VALUES
	('r2', 'actor-r2', 'studio', 'ready', '', 1, '2026-11-22 00:25:23.306586+00', '2026-11-22 00:25:23.306586+00', '[]'),
	('r5', 'actor-r5', 'studio', 'starting', 'downloading a', 1, NULL, '2026-11-22 00:25:23.385746+00', '[{"endpoints":["a"],"stage":"downloading","done":1,"total":34359738368}]'),
	('r6', 'actor-r6', 'studio', 'draining', '', 1, NULL, '2026-11-22 00:25:23.386117+00', '[]'),
	('r4', 'actor-r4', 'studio', 'ready', '', 1, NULL, '2026-11-22 00:25:23.458034+00', '[]'),
	('r1', 'actor-r1', 'studio', 'ready', '', 1, '2026-11-22 00:25:23.458537+00', '2026-11-22 00:25:23.458537+00', '[]'),
	('r3', 'actor-r3', 'studio', 'ready', '', 1, '2026-11-22 00:25:23.458537+00', '2026-11-22 00:25:23.458537+00', '[]');

INSERT INTO public.requests (id, place, tenant, endpoint, endpoint_digest, pool, priority, state, input, attempt, failures, unconfirmed, confirmed, alone, cancel_requested, replica_id, actor_id, lease_until, start_by, created_at, started_at, finished_at, outcome, events, idempotency_key, body_digest, webhook_url, snapshot, snapshot_step, reuse_digest, reuses, ranked_at, work, expected_s, end_by, previews, deleted_at, forgetting, webhook_origin, retries_left, leads, follows, shown) OVERRIDING SYSTEM VALUE VALUES
	('019b0000-0000-7000-8000-000000000000', 1, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'succeeded', '{"prompt":"succeeded"}', 1, 0, 0, false, false, false, 'r1', NULL, NULL, NULL, '2026-11-22 00:25:21.906608+00', '2026-11-22 00:25:21.925779+00', '2026-11-22 00:25:21.958641+00', '{"output":{"images":[{"artifact":"019b0000-0000-7000-8000-000000000000/1/0.png"}],"text":"not for jsonb: \u0000 \ud800"},"artifacts":[{"key":"019b0000-0000-7000-8000-000000000000/1/0.png","media_type":"image/png","size":3,"sha256":"abababababababababababababababababababababababababababababababab","width":8,"height":8}],"failure":null,"usage":{"run_s":1.5,"steps":4,"units":1.0}}', 3, NULL, NULL, 'https://succeeded.example.com/hook', NULL, NULL, '\x7375636365656465642e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e', NULL, '2026-11-22 00:25:21.906608+00', 1, 1, NULL, true, NULL, NULL, 'https://darkroom.example.com', NULL, '019b0000-0000-7000-8000-000000000000', NULL, NULL),
	('019b0000-0000-7000-8000-000000000001', 2, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'succeeded', '{"prompt":"many attempts"}', 7, 2, 1, false, true, false, 'r1', NULL, NULL, NULL, '2026-11-22 00:25:21.990299+00', '2026-11-22 00:25:22.429007+00', '2026-11-22 00:25:22.448421+00', '{"output":{"images":[{"artifact":"019b0000-0000-7000-8000-000000000001/1/0.png"}],"text":"not for jsonb: \u0000 \ud800"},"artifacts":[{"key":"019b0000-0000-7000-8000-000000000001/1/0.png","media_type":"image/png","size":3,"sha256":"abababababababababababababababababababababababababababababababab","width":8,"height":8}],"failure":null,"usage":{"run_s":1.5,"steps":4,"units":1.0}}', 15, NULL, NULL, 'https://many-attempts.example.com/hook', NULL, NULL, NULL, NULL, '2026-11-22 00:25:21.990299+00', 1, 1, NULL, true, NULL, NULL, 'https://darkroom.example.com', NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000002', 3, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'succeeded', '{"prompt":"reused"}', 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, '2026-11-22 00:25:22.470171+00', '2026-11-22 00:25:22.470171+00', '2026-11-22 00:25:22.470171+00', '{"output":{"images":[{"artifact":"019b0000-0000-7000-8000-000000000000/1/0.png"}],"text":"not for jsonb: \u0000 \ud800"},"artifacts":[{"key":"019b0000-0000-7000-8000-000000000000/1/0.png","media_type":"image/png","size":3,"sha256":"abababababababababababababababababababababababababababababababab","width":8,"height":8}],"failure":null,"usage":{"run_s":0.0,"steps":0,"units":0.0}}', 1, NULL, NULL, 'https://reused.example.com/hook', NULL, NULL, NULL, '019b0000-0000-7000-8000-000000000000', '2026-11-22 00:25:22.470171+00', 1, 1, NULL, true, NULL, NULL, 'https://darkroom.example.com', NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000003', 4, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'succeeded', '{"prompt":"leader"}', 1, 0, 0, false, false, false, 'r1', NULL, NULL, NULL, '2026-11-22 00:25:22.481764+00', '2026-11-22 00:25:22.494137+00', '2026-11-22 00:25:22.51727+00', '{"output":{"images":[{"artifact":"019b0000-0000-7000-8000-000000000003/1/0.png"}],"text":"not for jsonb: \u0000 \ud800"},"artifacts":[{"key":"019b0000-0000-7000-8000-000000000003/1/0.png","media_type":"image/png","size":3,"sha256":"abababababababababababababababababababababababababababababababab","width":8,"height":8}],"failure":null,"usage":{"run_s":1.5,"steps":4,"units":1.0}}', 3, NULL, NULL, NULL, NULL, NULL, '\x6c65616465722e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e', NULL, '2026-11-22 00:25:22.481764+00', 1, 1.4999999999999998, NULL, true, NULL, NULL, NULL, NULL, '019b0000-0000-7000-8000-000000000003', NULL, NULL),
	('019b0000-0000-7000-8000-000000000004', 5, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'succeeded', '{"prompt":"follower"}', 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, '2026-11-22 00:25:22.505697+00', '2026-11-22 00:25:22.521694+00', '2026-11-22 00:25:22.521694+00', '{"output":{"images":[{"artifact":"019b0000-0000-7000-8000-000000000003/1/0.png"}],"text":"not for jsonb: \u0000 \ud800"},"artifacts":[{"key":"019b0000-0000-7000-8000-000000000003/1/0.png","media_type":"image/png","size":3,"sha256":"abababababababababababababababababababababababababababababababab","width":8,"height":8}],"failure":null,"usage":{"run_s":0.0,"steps":0,"units":0.0}}', 3, NULL, NULL, 'https://follower.example.com/hook', NULL, NULL, NULL, '019b0000-0000-7000-8000-000000000003', '2026-11-22 00:25:22.505697+00', 1, 1.4999999999999998, NULL, true, NULL, NULL, 'https://darkroom.example.com', NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000005', 6, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'failed', '{"prompt":"failed"}', 1, 0, 0, false, false, false, 'r1', NULL, NULL, NULL, '2026-11-22 00:25:22.573947+00', '2026-11-22 00:25:22.578446+00', '2026-11-22 00:25:22.588439+00', '{"output":null,"artifacts":[],"failure":{"code":"pipeline_failed","message":"It went wrong: pipeline_failed.","retryable":false,"field":null,"type":null,"context":null},"usage":{"run_s":0.0,"steps":0,"units":0.0}}', 3, NULL, NULL, 'https://failed.example.com/hook', NULL, NULL, NULL, NULL, '2026-11-22 00:25:22.573947+00', 1, 1.4999999999999998, NULL, true, NULL, NULL, 'https://darkroom.example.com', NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-00000000000c', 14, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'succeeded', '{}', 1, 0, 0, false, false, false, 'r1', NULL, NULL, NULL, '2026-11-22 00:25:22.884409+00', '2026-11-22 00:25:22.888657+00', '2026-11-21 22:25:22.894588+00', '{"output":null,"artifacts":[],"failure":null,"usage":{"run_s":1.5,"steps":4,"units":1.0}}', 3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-22 00:25:22.884409+00', 1, 1.4999999999999998, NULL, true, NULL, 'done', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000010', 20, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'running', '{"prompt":"unconfirmed"}', 1, 0, 0, false, false, false, 'r4', 'actor-r4', '2026-11-22 00:35:23.381079+00', NULL, '2026-11-22 00:25:23.37814+00', '2026-11-22 00:25:23.381079+00', NULL, NULL, 2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-22 00:25:23.37814+00', 1, 1.4999999999999998, NULL, true, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000014', 25, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'queued', '{"prompt":"with deadlines"}', 0, 0, 0, false, false, false, NULL, NULL, NULL, '2026-11-22 01:25:23.485718+00', '2026-11-22 00:25:23.485718+00', NULL, NULL, NULL, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-22 00:25:23.485718+00', 1, 1.4999999999999998, '2026-11-22 02:25:23.485718+00', false, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000016', 27, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 0, 'queued', '{"prompt":"to be forgotten"}', 0, 0, 0, false, true, false, NULL, NULL, NULL, NULL, '2026-11-22 00:25:23.499807+00', NULL, NULL, NULL, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-22 00:35:23.499807+00', 1, 1.4999999999999998, NULL, true, NULL, 'input', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-00000000001d', 33, 'ann', 'fal-ai/paused', '0123456789abcdef', 'studio', 1, 'queued', '{"prompt":"paused"}', 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, '2026-11-22 00:25:23.539338+00', NULL, NULL, NULL, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-22 00:25:23.539338+00', 1, 1.4999999999999998, NULL, true, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000006', 7, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'failed', '{"prompt":"failed by hand"}', 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, '2026-11-22 00:25:22.591189+00', NULL, '2026-11-22 00:25:22.600433+00', '{"output":null,"artifacts":[],"failure":{"code":"failed_by_hand","message":"An operator of this installation ended the request: It blocks the others.","retryable":false,"field":null,"type":null,"context":null},"usage":{"run_s":0.0,"steps":0,"units":0.0}}', 2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-22 00:25:22.591189+00', 1, 1.5, NULL, true, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-00000000000e', 8, 'bob', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'succeeded', '{"prompt":"of another tenant"}', 1, 0, 0, false, false, false, 'r1', NULL, NULL, NULL, '2026-11-22 00:25:22.6134+00', '2026-11-22 00:25:22.618892+00', '2026-11-22 00:25:22.630717+00', '{"output":{"images":[{"artifact":"019b0000-0000-7000-8000-00000000000e/1/0.png"}],"text":"not for jsonb: \u0000 \ud800"},"artifacts":[{"key":"019b0000-0000-7000-8000-00000000000e/1/0.png","media_type":"image/png","size":3,"sha256":"abababababababababababababababababababababababababababababababab","width":8,"height":8}],"failure":null,"usage":{"run_s":1.5,"steps":4,"units":1.0}}', 3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-22 00:25:22.6134+00', 1, 1.5, NULL, true, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000007', 9, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'cancelled', '{"prompt":"cancelled"}', 0, 0, 0, false, false, true, NULL, NULL, NULL, NULL, '2026-11-22 00:25:22.633812+00', NULL, '2026-11-22 00:25:22.653783+00', '{"output":null,"artifacts":[],"failure":{"code":"cancelled","message":"The request was cancelled.","retryable":false,"field":null,"type":null,"context":null},"usage":{"run_s":0.0,"steps":0,"units":0.0}}', 2, NULL, NULL, 'https://cancelled.example.com/hook', NULL, NULL, NULL, NULL, '2026-11-22 00:25:22.633812+00', 1, 1.5, NULL, true, NULL, NULL, 'https://darkroom.example.com', NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-00000000000a', 12, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'expired', '{"prompt":"expired while it ran"}', 1, 0, 0, false, false, false, 'r1', NULL, NULL, '2026-11-22 00:35:22.819308+00', '2026-11-22 00:25:22.819308+00', '2026-11-22 00:25:22.82544+00', '2026-11-22 00:25:22.834424+00', '{"output":null,"artifacts":[],"failure":{"code":"expired","message":"The request did not end within the time that its X-Darkroom-Deadline allowed.","retryable":false,"field":null,"type":null,"context":null},"usage":{"run_s":0.0,"steps":0,"units":0.0}}', 3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-22 00:25:22.819308+00', 1, 1.4999999999999998, '2026-11-22 00:35:22.819308+00', true, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-00000000000f', 17, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'running', '{"prompt":"running"}', 1, 0, 0, true, false, false, 'r1', 'actor-r1', '2026-11-22 00:35:23.264712+00', NULL, '2026-11-22 00:25:23.255531+00', '2026-11-22 00:25:23.259053+00', NULL, NULL, 2, NULL, NULL, 'https://running.example.com/hook', 's/019b0000-0000-7000-8000-00000000000f/1/0.bin', 10, NULL, NULL, '2026-11-22 00:25:23.255531+00', 1, 1.4999999999999998, NULL, true, NULL, NULL, 'https://darkroom.example.com', NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000012', 19, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'running', '{"prompt":"running leader"}', 1, 0, 0, true, false, false, 'r3', 'actor-r3', '2026-11-22 00:35:23.375827+00', NULL, '2026-11-22 00:25:23.32678+00', '2026-11-22 00:25:23.361079+00', NULL, NULL, 2, NULL, NULL, NULL, NULL, NULL, '\x72756e6e696e67206c65616465722e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e', NULL, '2026-11-22 00:25:23.32678+00', 1, 1.4999999999999998, NULL, true, NULL, NULL, NULL, NULL, '019b0000-0000-7000-8000-000000000012', NULL, NULL),
	('019b0000-0000-7000-8000-000000000017', 21, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'queued', '{"prompt":"suspect"}', 1, 1, 0, false, true, false, NULL, NULL, NULL, NULL, '2026-11-22 00:25:23.386698+00', '2026-11-22 00:25:23.390053+00', NULL, NULL, 3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-22 00:25:23.386698+00', 1, 1.4999999999999998, NULL, true, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000019', 23, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'queued', '{"prompt":"requeued by hand"}', 1, 0, 0, false, false, false, NULL, NULL, NULL, NULL, '2026-11-22 00:25:23.425628+00', '2026-11-22 00:25:23.434242+00', NULL, NULL, 3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-22 00:25:23.425628+00', 1, 1.4999999999999998, NULL, true, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-00000000001a', 28, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'queued', '{"prompt":"queued leader"}', 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, '2026-11-22 00:25:23.507352+00', NULL, NULL, NULL, 1, NULL, NULL, NULL, NULL, NULL, '\x717565756564206c65616465722e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e', NULL, '2026-11-22 00:25:23.507352+00', 1, 1.4999999999999998, NULL, true, NULL, NULL, NULL, NULL, '019b0000-0000-7000-8000-00000000001a', NULL, NULL),
	('019b0000-0000-7000-8000-00000000001e', 29, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'following', '{"prompt":"following a running request"}', 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, '2026-11-22 00:25:23.514402+00', NULL, NULL, NULL, 2, NULL, NULL, NULL, NULL, NULL, '\x72756e6e696e67206c65616465722e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e', NULL, '2026-11-22 00:25:23.514402+00', 1, 1.4999999999999998, NULL, true, NULL, NULL, NULL, NULL, NULL, '019b0000-0000-7000-8000-000000000012', NULL),
	('019b0000-0000-7000-8000-000000000015', 26, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'queued', '{"prompt": "with a large input"}', 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, '2026-11-22 00:25:23.491004+00', NULL, NULL, NULL, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-22 00:25:23.491004+00', 1, 1.4999999999999998, NULL, true, NULL, NULL, NULL, NULL, NULL, NULL, '{"prompt":"with a large input","image":"data:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\u2026 (65541 characters)"}'),
	('019b0000-0000-7000-8000-000000000018', 22, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'queued', '{"prompt":"handed back"}', 1, 0, 0, false, false, false, NULL, NULL, NULL, NULL, '2026-11-22 00:25:23.40404+00', '2026-11-22 00:25:23.408891+00', NULL, NULL, 3, NULL, NULL, NULL, 's/019b0000-0000-7000-8000-000000000018/1/0.bin', 7, NULL, NULL, '2026-11-22 00:25:23.40404+00', 1, 1.4999999999999998, NULL, true, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000008', 10, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'cancelled', '{"prompt":"cancelled while it ran"}', 1, 0, 0, false, false, true, 'r1', NULL, NULL, NULL, '2026-11-22 00:25:22.659352+00', '2026-11-22 00:25:22.676427+00', '2026-11-22 00:25:22.70132+00', '{"output":null,"artifacts":[],"failure":{"code":"cancelled","message":"The request was cancelled.","retryable":false,"field":null,"type":null,"context":null},"usage":{"run_s":0.0,"steps":0,"units":0.0}}', 4, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-22 00:25:22.659352+00', 1, 1.5, NULL, true, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000009', 11, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'expired', '{"prompt":"expired"}', 0, 0, 0, false, false, false, NULL, NULL, NULL, '2026-11-22 00:25:22.71612+00', '2026-11-22 00:25:22.70612+00', NULL, '2026-11-22 00:25:22.793153+00', '{"output":null,"artifacts":[],"failure":{"code":"expired","message":"The request did not start within the time that it allowed.","retryable":false,"field":null,"type":null,"context":null},"usage":{"run_s":0.0,"steps":0,"units":0.0}}', 2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-22 00:25:22.70612+00', 1, 1.4999999999999998, NULL, true, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000020', 13, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'succeeded', '{}', 1, 0, 0, false, false, false, 'r1', NULL, NULL, NULL, '2026-11-22 00:25:22.844817+00', '2026-11-22 00:25:22.849851+00', '2026-11-22 00:25:22.867056+00', '{"output":null,"artifacts":[],"failure":null,"usage":{"run_s":0.0,"steps":0,"units":0.0}}', 3, 'deleted', '\x6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c', NULL, NULL, NULL, NULL, NULL, '2026-11-22 00:25:22.844817+00', 1, 1.4999999999999998, NULL, true, '2026-11-22 00:25:22.872764+00', NULL, NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-00000000000d', 16, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'live', 3, 'succeeded', '{"prompt":"session"}', 1, 0, 0, false, false, false, 'r1', NULL, NULL, NULL, '2026-11-22 00:25:23.087668+00', '2026-11-22 00:25:23.094471+00', '2026-11-22 00:25:23.125105+00', '{"output":{},"artifacts":[],"failure":null,"usage":{"run_s":2.0,"steps":0,"units":0.0}}', 3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-22 00:05:23.087668+00', 1, 1, NULL, true, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000011', 18, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'running', '{"prompt":"cancel requested"}', 1, 0, 0, true, false, true, 'r2', 'actor-r2', '2026-11-22 00:35:23.293844+00', NULL, '2026-11-22 00:25:23.281316+00', '2026-11-22 00:25:23.285129+00', NULL, NULL, 3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-22 00:25:23.281316+00', 1, 1.4999999999999998, NULL, true, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-000000000013', 24, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 2, 'queued', '{"prompt":"queued"}', 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, '2026-11-22 00:25:23.481333+00', NULL, NULL, NULL, 2, 'queued', '\x6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c', 'https://queued.example.com/hook', NULL, NULL, NULL, NULL, '2026-11-22 00:15:23.481333+00', 30, 44.99999999999999, NULL, true, NULL, NULL, 'https://darkroom.example.com', '{1,2,0}', NULL, NULL, NULL),
	('019b0000-0000-7000-8000-00000000001b', 31, 'bob', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'queued', '{"prompt":"queued of another tenant"}', 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, '2026-11-22 00:25:23.526302+00', NULL, NULL, NULL, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-22 00:25:23.526302+00', 1, 1.4999999999999998, NULL, true, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-00000000001c', 32, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'other', 1, 'queued', '{"prompt":"in another pool"}', 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, '2026-11-22 00:25:23.536256+00', NULL, NULL, NULL, 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-22 00:25:23.536256+00', 1, 1, NULL, true, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-00000000000b', 15, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'succeeded', '{}', 1, 0, 0, false, false, false, 'r1', NULL, NULL, NULL, '2026-11-22 00:25:23.014315+00', '2026-11-22 00:25:23.020577+00', '2026-11-22 00:25:23.028974+00', '{"output":{"images":[{"artifact":"019b0000-0000-7000-8000-00000000000b/1/0.png"}],"text":"not for jsonb: \u0000 \ud800"},"artifacts":[{"key":"019b0000-0000-7000-8000-00000000000b/1/0.png","media_type":"image/png","size":3,"sha256":"abababababababababababababababababababababababababababababababab","width":8,"height":8}],"failure":null,"usage":{"run_s":1.5,"steps":4,"units":1.0}}', 3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '2026-11-22 00:25:23.014315+00', 1, 1.5, NULL, true, NULL, 'outcome', NULL, NULL, NULL, NULL, NULL),
	('019b0000-0000-7000-8000-00000000001f', 30, 'ann', 'fal-ai/flux/schnell', '0123456789abcdef', 'studio', 1, 'following', '{"prompt":"following a queued request"}', 0, 0, 0, false, false, false, NULL, NULL, NULL, NULL, '2026-11-22 00:25:23.518862+00', NULL, NULL, NULL, 2, NULL, NULL, NULL, NULL, NULL, '\x717565756564206c65616465722e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e2e', NULL, '2026-11-22 00:25:23.518862+00', 1, 1.4999999999999998, NULL, true, NULL, NULL, NULL, NULL, NULL, '019b0000-0000-7000-8000-00000000001a', NULL);

INSERT INTO public.tenants (id, name, created_at, disabled_at) VALUES
	('ann', 'ann', '2026-11-22 00:25:21.624813+00', NULL),
	('bob', 'bob', '2026-11-22 00:25:21.697099+00', NULL),
	('carl', 'carl', '2026-11-22 00:25:21.83919+00', '2026-11-22 00:25:21.862518+00');

INSERT INTO public.undelivered (request_id, api_key, body_digest, at) VALUES
	('019b0000-0000-7000-8000-000000000013', 'dk_replaying', '\x6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c6c', '2026-11-22 00:25:23.483365+00');

INSERT INTO public.unwanted (key, due_at) VALUES
	('019b0000-0000-7000-8000-000000000001/1/0.png', '2026-11-22 00:30:22.178121+00'),
	('019b0000-0000-7000-8000-000000000001/2/0.png', '2026-11-22 00:30:22.178121+00'),
	('019b0000-0000-7000-8000-000000000001/4/0.png', '2026-11-22 06:25:22.178121+00'),
	('019b0000-0000-7000-8000-000000000001/5/0.png', '2026-11-22 06:25:22.294417+00'),
	('019b0000-0000-7000-8000-000000000001/6/0.png', '2026-11-22 06:25:22.409657+00'),
	('019b0000-0000-7000-8000-000000000005/1/0.png', '2026-11-22 00:30:22.624752+00'),
	('019b0000-0000-7000-8000-000000000008/1/0.png', '2026-11-22 00:30:22.73185+00'),
	('019b0000-0000-7000-8000-00000000000a/1/0.png', '2026-11-22 00:30:22.84478+00'),
	('019b0000-0000-7000-8000-000000000020/1/0.png', '2026-11-22 00:25:22.872764+00'),
	('s/019b0000-0000-7000-8000-00000000000f/1/0.bin', '2026-11-22 01:25:23.27747+00'),
	('019b0000-0000-7000-8000-000000000017/1/0.png', '2026-11-22 06:25:23.491795+00'),
	('019b0000-0000-7000-8000-000000000018/1/0.png', '2026-11-22 00:30:23.491795+00'),
	('019b0000-0000-7000-8000-000000000019/1/0.png', '2026-11-22 06:25:23.491795+00');

INSERT INTO public.upload_parts (key, number, etag, size) VALUES
	('u/parts.png', 1, 'abababababababababababababababab', 5242880),
	('u/parts.png', 2, 'abababababababababababababababab', 5242880);

INSERT INTO public.uploads (key, id, tenant, media_type, keep_s, parts_id, state, size, created_at, due_at) VALUES
	('u/open.png', 'openopenopenopen', 'ann', 'image/png', NULL, NULL, 'open', NULL, '2026-11-22 00:25:23.199923+00', '2026-11-22 06:25:23.199923+00'),
	('u/parts.png', 'partspartspartsparts', 'ann', 'image/png', NULL, 'storage-7', 'open', NULL, '2026-11-22 00:25:23.201636+00', '2026-11-22 06:25:23.201636+00'),
	('u/whole.png', 'wholewholewholewhole', 'ann', 'image/png', NULL, NULL, 'whole', 3221225472, '2026-11-22 00:25:23.204411+00', NULL),
	('u/whole for an hour.png', 'whole for an hourwhole for an hourwhole for an hourwhole for an hour', 'ann', 'image/png', 3600, NULL, 'whole', 1000, '2026-11-22 00:25:23.210875+00', '2026-11-22 01:25:23.243825+00'),
	('u/given up.png', 'given upgiven upgiven upgiven up', 'ann', 'image/png', NULL, NULL, 'unwanted', NULL, '2026-11-22 00:25:23.220456+00', '2026-11-22 00:25:23.250854+00');

INSERT INTO public.usage (request_id, tenant, endpoint, state, attempt, run_s, steps, units, at) VALUES
	('019b0000-0000-7000-8000-000000000000', 'ann', 'fal-ai/flux/schnell', 'succeeded', 1, 1.5, 4, 1, '2026-11-22 00:25:21.958641+00'),
	('019b0000-0000-7000-8000-000000000001', 'ann', 'fal-ai/flux/schnell', 'succeeded', 7, 1.5, 4, 1, '2026-11-22 00:25:22.448421+00'),
	('019b0000-0000-7000-8000-000000000002', 'ann', 'fal-ai/flux/schnell', 'succeeded', 0, 0, 0, 0, '2026-11-22 00:25:22.470171+00'),
	('019b0000-0000-7000-8000-000000000003', 'ann', 'fal-ai/flux/schnell', 'succeeded', 1, 1.5, 4, 1, '2026-11-22 00:25:22.51727+00'),
	('019b0000-0000-7000-8000-000000000004', 'ann', 'fal-ai/flux/schnell', 'succeeded', 0, 0, 0, 0, '2026-11-22 00:25:22.521694+00'),
	('019b0000-0000-7000-8000-000000000005', 'ann', 'fal-ai/flux/schnell', 'failed', 1, 0, 0, 0, '2026-11-22 00:25:22.588439+00'),
	('019b0000-0000-7000-8000-000000000006', 'ann', 'fal-ai/flux/schnell', 'failed', 0, 0, 0, 0, '2026-11-22 00:25:22.600433+00'),
	('019b0000-0000-7000-8000-00000000000e', 'bob', 'fal-ai/flux/schnell', 'succeeded', 1, 1.5, 4, 1, '2026-11-22 00:25:22.630717+00'),
	('019b0000-0000-7000-8000-000000000007', 'ann', 'fal-ai/flux/schnell', 'cancelled', 0, 0, 0, 0, '2026-11-22 00:25:22.653783+00'),
	('019b0000-0000-7000-8000-000000000008', 'ann', 'fal-ai/flux/schnell', 'cancelled', 1, 0, 0, 0, '2026-11-22 00:25:22.70132+00'),
	('019b0000-0000-7000-8000-000000000009', 'ann', 'fal-ai/flux/schnell', 'expired', 0, 0, 0, 0, '2026-11-22 00:25:22.793153+00'),
	('019b0000-0000-7000-8000-00000000000a', 'ann', 'fal-ai/flux/schnell', 'expired', 1, 0, 0, 0, '2026-11-22 00:25:22.834424+00'),
	('019b0000-0000-7000-8000-000000000020', 'ann', 'fal-ai/flux/schnell', 'succeeded', 1, 1.5, 4, 1, '2026-11-22 00:25:22.867056+00'),
	('019b0000-0000-7000-8000-00000000000c', 'ann', 'fal-ai/flux/schnell', 'succeeded', 1, 1.5, 4, 1, '2026-11-22 00:25:22.894588+00'),
	('019b0000-0000-7000-8000-00000000000b', 'ann', 'fal-ai/flux/schnell', 'succeeded', 1, 1.5, 4, 1, '2026-11-22 00:25:23.028974+00'),
	('0000a348-4055-6600-43a8-8142e13d9182', 'ann', 'fal-ai/flux/schnell', 'succeeded', 1, 0.2, 1, 0.25, '2026-11-22 00:25:23.113571+00'),
	('0000a348-4055-676f-cf29-33c51f37fbcb', 'ann', 'fal-ai/flux/schnell', 'succeeded', 1, 0.2, 1, 0.25, '2026-11-22 00:25:23.119047+00'),
	('019b0000-0000-7000-8000-00000000000d', 'ann', 'fal-ai/flux/schnell', 'succeeded', 1, 2, 0, 0, '2026-11-22 00:25:23.125105+00');

INSERT INTO public.webhook_deliveries (id, request_id, tenant, url, state, tries, due_at, created_at, claims, since, ended_at, body, status, error) VALUES
	('f8592f2a-cb4e-4191-9794-7b9d2d6acbf7', '019b0000-0000-7000-8000-000000000002', 'ann', 'https://reused.example.com/hook', 'pending', 0, '2026-11-22 00:25:22.470171+00', '2026-11-22 00:25:22.470171+00', 0, '2026-11-22 00:25:22.470171+00', NULL, NULL, NULL, ''),
	('2236d379-1fe6-4bd6-af42-6fa0010f10d8', '019b0000-0000-7000-8000-000000000000', 'ann', 'https://succeeded.example.com/hook', 'delivered', 1, '2026-11-22 00:25:23.144384+00', '2026-11-22 00:25:21.958641+00', 2, '2026-11-22 00:25:21.958641+00', '2026-11-22 00:25:23.144384+00', '\x7b22737461747573223a20224f4b227d', 200, ''),
	('9094ee4e-2eb5-46de-a895-5488b1f0408a', '019b0000-0000-7000-8000-000000000004', 'ann', 'https://follower.example.com/hook', 'pending', 0, '2026-11-22 00:25:23.170355+00', '2026-11-22 00:25:22.521694+00', 3, '2026-11-22 00:25:23.170355+00', NULL, '\x7b22737461747573223a20224f4b227d', 200, ''),
	('dab9dd0c-8e07-4499-ba22-4115d0af197d', '019b0000-0000-7000-8000-000000000001', 'ann', 'https://many-attempts.example.com/hook', 'pending', 1, '2026-11-22 00:25:23.185591+00', '2026-11-22 00:25:22.448421+00', 2, '2026-11-22 00:25:22.448421+00', NULL, '\x7b22737461747573223a20224f4b227d', 503, 'It answered 503.'),
	('3fd7ab58-0d25-4573-8dd0-3d34e5a0e9fa', '019b0000-0000-7000-8000-000000000005', 'ann', 'https://failed.example.com/hook', 'dead', 1, '2026-11-22 00:25:23.193307+00', '2026-11-22 00:25:22.588439+00', 2, '2026-11-22 00:25:22.588439+00', '2026-11-22 00:25:23.193307+00', NULL, NULL, 'It did not answer.'),
	('b9444eed-379e-4a41-b426-5678544431c3', '019b0000-0000-7000-8000-000000000007', 'ann', 'https://cancelled.example.com/hook', 'pending', 0, '2026-11-22 00:26:03.195619+00', '2026-11-22 00:25:22.653783+00', 1, '2026-11-22 00:25:22.653783+00', NULL, NULL, NULL, '');

INSERT INTO public.webhook_keys (kid, seed, created_at, signs_from) VALUES
	('whk_b60ac8b0c1d2d636', '243016404c566722f8bcb3034f2a2eea083b5d6d4a9b42c7c894e4b0e5138af4', '2026-11-22 00:25:21.880953+00', '2026-11-22 00:25:21.880953+00'),
	('whk_02b758d6505e5c3d', 'f8a1ea1d18889df25754feb1f22123101f34c4143152fde5eea7a31628743114', '2026-11-22 00:25:21.891749+00', '2026-11-23 01:25:21.891749+00');

INSERT INTO public.webhook_tries (delivery, claim, at, took_s, status, error) VALUES
	('2236d379-1fe6-4bd6-af42-6fa0010f10d8', 1, '2026-11-22 00:25:23.024384+00', 0.12, 200, ''),
	('9094ee4e-2eb5-46de-a895-5488b1f0408a', 1, '2026-11-22 00:25:23.044463+00', 0.12, 200, ''),
	('dab9dd0c-8e07-4499-ba22-4115d0af197d', 1, '2026-11-22 00:25:22.185591+00', 1, 503, 'It answered 503.'),
	('3fd7ab58-0d25-4573-8dd0-3d34e5a0e9fa', 1, '2026-11-22 00:24:53.193307+00', 30, NULL, 'It did not answer.');

SELECT pg_catalog.setval('public.audit_id_seq', 9, true);

SELECT pg_catalog.setval('public.requests_place_seq', 33, true);

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.artifacts
    ADD CONSTRAINT artifacts_pkey PRIMARY KEY (key);

ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT attempts_pkey PRIMARY KEY (request_id, attempt);

ALTER TABLE ONLY public.audit
    ADD CONSTRAINT audit_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.costs
    ADD CONSTRAINT costs_pkey PRIMARY KEY (endpoint, pool);

ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (request_id, sequence);

ALTER TABLE ONLY public.fair_lanes
    ADD CONSTRAINT fair_lanes_pkey PRIMARY KEY (pool, tenant);

ALTER TABLE ONLY public.halts
    ADD CONSTRAINT halts_pkey PRIMARY KEY (endpoint);

ALTER TABLE ONLY public.installation
    ADD CONSTRAINT installation_pkey PRIMARY KEY (key);

ALTER TABLE ONLY public.lifecycles
    ADD CONSTRAINT lifecycles_pkey PRIMARY KEY (request_id);

ALTER TABLE ONLY public.migrations
    ADD CONSTRAINT migrations_pkey PRIMARY KEY (number);

ALTER TABLE ONLY public.progress
    ADD CONSTRAINT progress_pkey PRIMARY KEY (request_id);

ALTER TABLE ONLY public.replicas
    ADD CONSTRAINT replicas_pkey PRIMARY KEY (replica_id);

ALTER TABLE ONLY public.requests
    ADD CONSTRAINT requests_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.tenants
    ADD CONSTRAINT tenants_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.undelivered
    ADD CONSTRAINT undelivered_pkey PRIMARY KEY (request_id);

ALTER TABLE ONLY public.unwanted
    ADD CONSTRAINT unwanted_pkey PRIMARY KEY (key);

ALTER TABLE ONLY public.upload_parts
    ADD CONSTRAINT upload_parts_pkey PRIMARY KEY (key, number);

ALTER TABLE ONLY public.uploads
    ADD CONSTRAINT uploads_pkey PRIMARY KEY (key);

ALTER TABLE ONLY public.usage
    ADD CONSTRAINT usage_pkey PRIMARY KEY (request_id);

ALTER TABLE ONLY public.webhook_deliveries
    ADD CONSTRAINT webhook_deliveries_pkey PRIMARY KEY (id);

ALTER TABLE ONLY public.webhook_deliveries
    ADD CONSTRAINT webhook_deliveries_request_id_key UNIQUE (request_id);

ALTER TABLE ONLY public.webhook_keys
    ADD CONSTRAINT webhook_keys_pkey PRIMARY KEY (kid);

ALTER TABLE ONLY public.webhook_tries
    ADD CONSTRAINT webhook_tries_pkey PRIMARY KEY (delivery, claim);

CREATE INDEX api_keys_of_tenant ON public.api_keys USING btree (tenant);

CREATE INDEX artifacts_of_request ON public.artifacts USING btree (request_id);

CREATE INDEX attempts_to_collect ON public.attempts USING btree (request_id) WHERE ((ended <> ALL (ARRAY['succeeded'::text, 'undo'::text])) AND (NOT collected));

CREATE INDEX fair_lanes_awake ON public.fair_lanes USING btree (pool, vtime, woken_at) WHERE active;

CREATE INDEX fair_lanes_served ON public.fair_lanes USING btree (pool, served);

CREATE INDEX lifecycles_due ON public.lifecycles USING btree (due_at);

CREATE INDEX requests_by_endpoint ON public.requests USING btree (pool, tenant, endpoint, ranked_at, place) WHERE ((state = 'queued'::text) AND (endpoint IS NOT NULL));

CREATE INDEX requests_deleted ON public.requests USING btree (created_at) WHERE (deleted_at IS NOT NULL);

CREATE INDEX requests_ended ON public.requests USING btree (tenant, endpoint, finished_at DESC, id DESC) WHERE ((finished_at IS NOT NULL) AND (deleted_at IS NULL));

CREATE INDEX requests_following ON public.requests USING btree (follows, ranked_at, place) WHERE (state = 'following'::text);

CREATE INDEX requests_following_start_by ON public.requests USING btree (start_by) WHERE ((state = 'following'::text) AND (start_by IS NOT NULL));

CREATE INDEX requests_history ON public.requests USING btree (tenant, endpoint, id DESC) WHERE ((finished_at IS NOT NULL) AND (deleted_at IS NULL));

CREATE UNIQUE INDEX requests_idempotency ON public.requests USING btree (tenant, endpoint, idempotency_key) WHERE (idempotency_key IS NOT NULL);

CREATE INDEX requests_in_lane ON public.requests USING btree (pool, tenant, ranked_at, place) WHERE (state = 'queued'::text);

CREATE UNIQUE INDEX requests_leading ON public.requests USING btree (leads) WHERE ((leads IS NOT NULL) AND (outcome IS NULL));

CREATE INDEX requests_leased ON public.requests USING btree (lease_until) WHERE (state = 'running'::text);

CREATE INDEX requests_led ON public.requests USING btree (leads, id DESC) WHERE ((leads IS NOT NULL) AND (state = 'succeeded'::text));

CREATE INDEX requests_of_tenant ON public.requests USING btree (tenant, id DESC);

CREATE INDEX requests_oldest ON public.requests USING btree (pool, priority DESC, place) WHERE ((state = 'queued'::text) AND (priority IS NOT NULL));

CREATE INDEX requests_reusable ON public.requests USING btree (tenant, reuse_digest, id DESC) WHERE ((reuse_digest IS NOT NULL) AND (state = 'succeeded'::text));

CREATE INDEX requests_reusing ON public.requests USING btree (reuses) WHERE (reuses IS NOT NULL);

CREATE INDEX requests_snapshot ON public.requests USING btree (id) WHERE (snapshot IS NOT NULL);

CREATE INDEX requests_start_by ON public.requests USING btree (start_by) WHERE ((state = 'queued'::text) AND (start_by IS NOT NULL));

CREATE INDEX requests_suspect ON public.requests USING btree (pool, tenant, ranked_at, place) WHERE ((state = 'queued'::text) AND alone AND (failures > 0));

CREATE INDEX requests_suspect_running ON public.requests USING btree (replica_id) WHERE ((state = 'running'::text) AND alone AND (failures > 0));

CREATE INDEX requests_to_forget ON public.requests USING btree (forgetting, finished_at) WHERE ((forgetting = ANY (ARRAY['input'::text, 'outcome'::text])) AND (finished_at IS NOT NULL));

CREATE INDEX requests_unsuccessful ON public.requests USING btree (tenant, endpoint, finished_at DESC, id DESC) WHERE ((state = ANY (ARRAY['failed'::text, 'cancelled'::text, 'expired'::text])) AND (deleted_at IS NULL));

CREATE INDEX requests_unsuccessful_of_all ON public.requests USING btree (id DESC) WHERE ((state = ANY (ARRAY['failed'::text, 'cancelled'::text, 'expired'::text])) AND (deleted_at IS NULL));

CREATE INDEX requests_unsuccessful_of_tenant ON public.requests USING btree (tenant, id DESC) WHERE ((state = ANY (ARRAY['failed'::text, 'cancelled'::text, 'expired'::text])) AND (deleted_at IS NULL));

CREATE INDEX requests_wished ON public.requests USING btree (tenant, reuse_digest) WHERE ((leads IS NOT NULL) AND (outcome IS NULL));

CREATE INDEX undelivered_at ON public.undelivered USING btree (at);

CREATE INDEX undelivered_of_key ON public.undelivered USING btree (api_key, body_digest, at);

CREATE INDEX unwanted_due ON public.unwanted USING btree (due_at);

CREATE INDEX uploads_due ON public.uploads USING btree (due_at) WHERE (due_at IS NOT NULL);

CREATE INDEX uploads_of_tenant ON public.uploads USING btree (tenant, created_at) WHERE (state = 'whole'::text);

CREATE INDEX usage_of_tenant_summed ON public.usage USING btree (tenant, at) INCLUDE (endpoint, run_s, steps, units);

CREATE INDEX webhook_deliveries_dead ON public.webhook_deliveries USING btree (tenant, request_id DESC) WHERE (state = 'dead'::text);

CREATE INDEX webhook_deliveries_due ON public.webhook_deliveries USING btree (tenant, host, due_at) WHERE (state = 'pending'::text);

CREATE INDEX webhook_deliveries_of_tenant ON public.webhook_deliveries USING btree (tenant, request_id DESC);

CREATE INDEX webhook_deliveries_since ON public.webhook_deliveries USING btree (since) WHERE (state = 'pending'::text);

ALTER TABLE ONLY public.api_keys
    ADD CONSTRAINT api_keys_tenant_fkey FOREIGN KEY (tenant) REFERENCES public.tenants(id);

ALTER TABLE ONLY public.upload_parts
    ADD CONSTRAINT upload_parts_key_fkey FOREIGN KEY (key) REFERENCES public.uploads(key) ON DELETE CASCADE;

ALTER TABLE ONLY public.webhook_tries
    ADD CONSTRAINT webhook_tries_delivery_fkey FOREIGN KEY (delivery) REFERENCES public.webhook_deliveries(id) ON DELETE CASCADE;
