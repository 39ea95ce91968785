-- compatible since 1
-- Warm targets set by operators, and what replicas hold for them. The version before neither sets
-- targets nor tells replicas what to hold.

CREATE TABLE warm_targets (
    endpoint text PRIMARY KEY,
    replicas integer NOT NULL,
    level    text NOT NULL,
    until    timestamptz,
    at       timestamptz NOT NULL DEFAULT now(),
    actor    text NOT NULL
);

-- keep: endpoints that a replica should hold, with their levels; null: not decided yet. Written by
-- one ingress process. The others are what the replica said last.
ALTER TABLE replicas
    ADD COLUMN node text NOT NULL DEFAULT '',
    ADD COLUMN device text NOT NULL DEFAULT '',
    ADD COLUMN on_disk json NOT NULL DEFAULT '[]',
    ADD COLUMN not_kept json NOT NULL DEFAULT '[]',
    ADD COLUMN keep json;
