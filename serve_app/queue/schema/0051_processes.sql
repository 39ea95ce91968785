-- compatible since 1
-- Terms of ingress processes and replicas: each begins with its actor and ends once. Under an ended term a
-- replica is leased nothing more. `started_at` is null where only the end was seen.

CREATE TABLE processes (
    actor_id text PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('ingress', 'replica')),
    name text NOT NULL,
    pool text NOT NULL DEFAULT '',
    node text NOT NULL DEFAULT '',
    version text NOT NULL DEFAULT '',
    cluster text NOT NULL DEFAULT '',
    started_at timestamptz,
    why_started text NOT NULL DEFAULT '',
    drains boolean NOT NULL DEFAULT false,
    seen_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    why_ended text NOT NULL DEFAULT '',
    by_itself boolean NOT NULL DEFAULT false
);
CREATE INDEX processes_alive ON processes (cluster) WHERE ended_at IS NULL;
CREATE INDEX processes_started ON processes (started_at);
CREATE INDEX processes_ended ON processes (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX processes_seen ON processes (seen_at);

ALTER TABLE attempts DROP CONSTRAINT attempts_ended_check;
ALTER TABLE attempts ADD CONSTRAINT attempts_ended_check CHECK (ended IN (
    'succeeded', 'failed', 'cancelled', 'expired', 'retry', 'died', 'lost', 'interrupted', 'stopped',
    'hand_back', 'undo', 'by_hand'));
