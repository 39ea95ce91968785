-- compatible since 1
-- Values that generators of apps have yielded, for clients that stream. Like previews, they may be lost in a crash.

CREATE UNLOGGED TABLE partial_results (
    request_id uuid NOT NULL,
    attempt    integer NOT NULL,
    number     integer NOT NULL,  -- in the attempt, from 0
    value      text NOT NULL,     -- JSON
    PRIMARY KEY (request_id, attempt, number)
) WITH (autovacuum_vacuum_scale_factor = 0.01);
