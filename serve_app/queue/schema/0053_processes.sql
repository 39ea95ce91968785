-- compatible since 1
-- Starts and ends of ingress processes and replicas, for operators.

CREATE TABLE processes (
    actor_id text PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('ingress', 'replica')),
    name text NOT NULL,
    pool text NOT NULL DEFAULT '',
    node text NOT NULL DEFAULT '',
    version text NOT NULL DEFAULT '',
    cluster text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    why_started text NOT NULL DEFAULT '',
    drains boolean NOT NULL DEFAULT false,
    seen_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz,
    why_ended text NOT NULL DEFAULT ''
);
CREATE INDEX processes_alive ON processes (cluster) WHERE ended_at IS NULL;
CREATE INDEX processes_started ON processes (started_at);
CREATE INDEX processes_ended ON processes (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX processes_seen ON processes (seen_at);
