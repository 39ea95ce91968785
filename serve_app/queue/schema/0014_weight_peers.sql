-- compatible since 1
-- Replicas that send weights to other nodes, and what they have. Not logged: each replica offers its
-- weights again within a minute. The version before does not look here.

CREATE UNLOGGED TABLE weight_peers (
    replica_id text PRIMARY KEY,
    node_id    text NOT NULL,                -- Ray's
    url        text NOT NULL,                -- origin of its server
    weights    text[] NOT NULL,              -- owner/name@commit
    seen_at    timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);
