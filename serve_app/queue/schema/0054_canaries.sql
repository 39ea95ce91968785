-- compatible since 1
-- Pools that try other code beside a pool, and how attempts ended in both while they do.

CREATE TABLE canaries (
    pool text NOT NULL,
    runs text NOT NULL,
    beside text NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now(),
    comparison text NOT NULL DEFAULT '',
    returned_at timestamptz,
    PRIMARY KEY (pool, runs)
);

CREATE TABLE canary_attempts (
    pool text NOT NULL,
    runs text NOT NULL,
    tried boolean NOT NULL,
    replica_id text NOT NULL,
    endpoint text NOT NULL,
    ended text NOT NULL,
    seconds double precision,
    ended_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (pool, runs) REFERENCES canaries ON DELETE CASCADE
);
CREATE INDEX canary_attempts_of ON canary_attempts (pool, runs, tried, ended_at);
