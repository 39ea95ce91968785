-- Lanes: whose turn it is. A lane that is not active has nothing queued; a sweeper corrects the rest.

CREATE TABLE lanes (
    pool        text NOT NULL,
    priority    smallint NOT NULL,
    tenant      text NOT NULL,
    active      boolean NOT NULL DEFAULT true,
    running     integer NOT NULL DEFAULT 0,
    max_running integer,
    weight      double precision NOT NULL DEFAULT 1 CHECK (weight > 0),
    vtime       double precision NOT NULL DEFAULT 0,
    PRIMARY KEY (pool, priority, tenant)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);
CREATE INDEX lanes_active ON lanes (pool, priority DESC, vtime) WHERE active;

-- What may be lost: rebuilt within seconds by the replicas' own asks and reports.

CREATE UNLOGGED TABLE replicas (
    replica_id text PRIMARY KEY,
    actor_id   text NOT NULL,
    pool       text NOT NULL,
    stage      text NOT NULL,
    detail     text NOT NULL DEFAULT '',
    slots      integer NOT NULL DEFAULT 1,   -- generations it runs at once
    busy_at    timestamptz,                  -- when it last held a lease
    seen_at    timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);

CREATE UNLOGGED TABLE progress (
    request_id uuid PRIMARY KEY,
    attempt    integer NOT NULL,
    stage      text NOT NULL,
    step       integer NOT NULL,
    steps      integer NOT NULL,
    at         timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);
