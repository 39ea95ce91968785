-- Rows of the parts beside the queue, in every state, for the tables of 0001_baseline.sql. The
-- database also has those of queue.sql, whose tenants are ann, bob and carl.

INSERT INTO sign_in_links VALUES ('\xaa', 'dk_valid', now() + interval '1 hour');
INSERT INTO tenant_deletions VALUES
    ('dora', now(), 'dk_valid', 'former', NULL), ('emil', now(), 'dk_valid', NULL, now());
INSERT INTO secrets (owner, name, sealed, changed_by) VALUES
    ('', 'provider', '\x01', 'dk_valid'), ('ann', 'provider', '\x02', 'dk_valid');

INSERT INTO live_settings (name, settings) VALUES ('keep_alive_s', '{"keep_alive_s": 20}');
INSERT INTO processes (actor_id, kind, name, cluster, started_at, ended_at, why_ended) VALUES
    ('actor-i1', 'ingress', 'ingress-old', 'before', now(), now(), 'it was stopped'),
    ('actor-r8', 'replica', 'r8', 'before', now(), NULL, '');
INSERT INTO quarantines (node, losses, last_loss_at) VALUES ('node-9', 4, now());
INSERT INTO canaries (pool, runs, beside) VALUES ('canary', 'v2', 'stable');
INSERT INTO canary_attempts (pool, runs, tried, replica_id, endpoint, ended, seconds) VALUES
    ('canary', 'v2', true, 'r9', 'fal-ai/flux', 'succeeded', 1.5),
    ('canary', 'v2', false, 'r8', 'fal-ai/flux', 'lost', NULL);
INSERT INTO catalog_entries (endpoint, entry, changed_by)
VALUES ('acme/portrait', '{"family": "flux"}', 'dk_valid');
INSERT INTO app_bundles (digest, content, created_by) VALUES ('ab12', '\x504b', 'dk_valid');
INSERT INTO warm_targets (endpoint, replicas, level, actor)
VALUES ('acme/portrait', 2, 'hot', 'dk_valid');
INSERT INTO weight_peers (replica_id, node_id, url, weights)
VALUES ('r9', 'node-1', 'http://10.0.0.1:9000', '{acme/flux@ab12}');
INSERT INTO running_counts VALUES ('tenant', 'emil', 250, now(), now());

INSERT INTO partial_results VALUES ('019b0000-0000-7000-8000-0000000000f0', 1, 0, '"a word"');
INSERT INTO usage_days (day, tenant, endpoint, state, price, requests, run_s, steps, units, images,
    megapixels, billed, amount)
VALUES ('2026-01-31', 'ann', 'fal-ai/flux', 'succeeded',
    '{"unit": "image", "amount": "0.01", "currency": "EUR"}', 3, 4.5, 84, 3, 3, 3, 3, 0.03);
INSERT INTO tenant_quotas (tenant, unit, currency, reserved) VALUES ('emil', 'month', 'EUR', 0.5);
INSERT INTO budget_warnings (tenant, period, threshold, used, budget, currency)
VALUES ('emil', now(), 0.8, 8.5, 10, 'EUR');
INSERT INTO replica_hours VALUES (now(), 'studio', 'H100', 3600, 1200);

INSERT INTO file_access (id, tenant, rules) VALUES ('private', 'ann', '{"default": "forbid"}');
INSERT INTO file_url_revocations (key, signature, number, tenant)
VALUES ('u/whole.png', '', nextval('file_url_revocation_numbers'), 'ann');
INSERT INTO drafts (id, tenant, request_id, key, size, sha256, facts, expires_at)
VALUES ('draft-1', 'ann', '019b0000-0000-7000-8000-000000000000', 'd/1.bin', 9, 'ab', '{}',
    now() + interval '1 day');
INSERT INTO favourites (tenant, request_id)
VALUES ('ann', '019b0000-0000-7000-8000-000000000000');
INSERT INTO share_links (id, digest, tenant, request_id, created_by, expires_at)
VALUES ('link-1', '\x04', 'ann', '019b0000-0000-7000-8000-000000000000', 'dk_valid',
    now() + interval '1 day');

INSERT INTO tenant_weights (tenant, name, base, source, state, created_by)
SELECT 'ann', state, 'fal-ai/flux', '{"url": "https://example.com/a"}', state, 'dk_valid'
FROM unnest('{waiting, fetching, checking, ready, refused}'::text[]) state;
INSERT INTO weight_files (digest, key, size, stored) VALUES ('ab12', 'w/ab12', 9, true);
INSERT INTO tenant_weight_files VALUES ('ann', 'ready', 'a.safetensors', 'ab12', 9);

INSERT INTO batches (id, tenant, key_id, origin, endpoint, input_file, input_key, status, expires_at)
SELECT status, 'ann', 'dk_valid', 'https://darkroom.example.com', 'fal-ai/flux', 'file-1',
    'u/whole.png', status, now() + interval '1 day'
FROM unnest('{validating, in_progress, cancelling, finalizing, failed, completed, expired,
    cancelled}'::text[]) status;
UPDATE batches SET stop = status WHERE status IN ('cancelled', 'expired');
INSERT INTO batch_files (id, tenant, key, name, purpose, size)
VALUES ('file-1', 'ann', 'u/whole.png', 'lines.jsonl', 'batch', 9);
INSERT INTO batch_lines (batch_id, line, custom_id, start, size, state)
SELECT 'in_progress', line, 'line-' || line, 100 * line, 100, state
FROM unnest('{waiting, sending, sent, succeeded, failed}'::text[]) WITH ORDINALITY x (state, line);

INSERT INTO workflows (tenant, name, definition, source) VALUES ('ann', 'posters', '{}', '{}');
INSERT INTO workflow_runs (request_id, tenant, definition)
VALUES ('019b0000-0000-7000-8000-0000000000f1', 'ann', '{}');
INSERT INTO workflow_steps (run_id, node, item, app, request_id, state)
SELECT '019b0000-0000-7000-8000-0000000000f1', state, 0, 'fal-ai/flux',
    '019b0000-0000-7000-8000-0000000000f2', state
FROM unnest('{sending, sent, ended}'::text[]) state;

INSERT INTO hosted_calls (id, request_id, tenant, attempt, provider, owner, endpoint, input_hash, state)
SELECT state, gen_random_uuid(), 'ann', 1, 'fal', '', 'fal-ai/flux', 'ab', state
FROM unnest('{sending, accepted, refused, unconfirmed, repeated}'::text[]) state;
INSERT INTO fallback_budgets VALUES ('fal-ai/flux', 'EUR', now(), 0.5);
INSERT INTO shadows (original, tenant, endpoint, target, state)
SELECT gen_random_uuid(), 'ann', 'fal-ai/flux', 'acme/portrait', state
FROM unnest('{waiting, sending, sent, skipped}'::text[]) state;

INSERT INTO comfyui_nodes (key, digest, content) VALUES ('nodes', 'ab12', '\x1f8b');
INSERT INTO comfyui_files (tenant, path, content)
VALUES ('ann', 'workflows/portrait.json', '\x7b7d');
INSERT INTO pool_minutes (minute, pool, queued, running, replicas, wait_s)
VALUES (date_trunc('minute', now()), 'studio', 2, 1, 1, 0.5);
