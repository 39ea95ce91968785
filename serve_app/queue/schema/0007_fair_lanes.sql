-- Fairness between tenants. `lanes`, by priority, stays for ingress replicas of the version before, which
-- may still run during an update; nothing of this version reads it.

CREATE TABLE fair_lanes (
    pool   text NOT NULL,
    tenant text NOT NULL,
    active boolean NOT NULL DEFAULT true,    -- a hint: something may be queued in it
    weight double precision NOT NULL DEFAULT 1 CHECK (weight > 0),
    vtime  double precision NOT NULL DEFAULT 0,  -- seconds of a slot that it was given, by weight
    rested boolean NOT NULL DEFAULT true,    -- was idle, and was given nothing since
    served double precision NOT NULL DEFAULT 0,  -- vtime of the pool when it was last given one
    PRIMARY KEY (pool, tenant)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);
CREATE INDEX fair_lanes_active ON fair_lanes (pool, vtime) WHERE active;
CREATE INDEX fair_lanes_served ON fair_lanes (pool, served);

-- What a request takes, learned: seconds = fixed + rate × work, fitted to decayed sums.
CREATE TABLE costs (
    endpoint     text NOT NULL,
    pool         text NOT NULL,
    n            double precision NOT NULL,  -- requests, the older the less they count
    work         double precision NOT NULL,
    seconds      double precision NOT NULL,
    work_work    double precision NOT NULL,
    work_seconds double precision NOT NULL,
    PRIMARY KEY (endpoint, pool)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);

ALTER TABLE requests
    -- When it counts as submitted: its order within its lane.
    ADD COLUMN ranked_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN work double precision NOT NULL DEFAULT 1,        -- steps × megapixels × pictures
    ADD COLUMN expected_s double precision NOT NULL DEFAULT 1,  -- what its lane is charged at a lease
    ADD COLUMN end_by timestamptz;                              -- not ended by then: expired
UPDATE requests SET ranked_at = created_at + make_interval(secs => 600 * (1 - priority))
    WHERE state = 'queued';
INSERT INTO fair_lanes (pool, tenant)
    SELECT DISTINCT pool, tenant FROM requests WHERE state = 'queued';

CREATE INDEX requests_in_lane ON requests (pool, tenant, ranked_at, place) WHERE state = 'queued';
DROP INDEX requests_of_lane;

ALTER TABLE attempts DROP CONSTRAINT attempts_ended_check;
ALTER TABLE attempts ADD CONSTRAINT attempts_ended_check CHECK (
    ended IN (
        'succeeded', 'failed', 'cancelled', 'expired', 'retry', 'lost', 'stopped', 'hand_back',
        'undo'));
