-- Lanes of equal virtual time go in the order in which they woke. One that wakes takes the time of its
-- pool at once, so that its place among those looked at first is that of its turn.
ALTER TABLE fair_lanes ADD COLUMN woken_at timestamptz NOT NULL DEFAULT now();
CREATE INDEX fair_lanes_awake ON fair_lanes (pool, vtime, woken_at) WHERE active;
DROP INDEX fair_lanes_active;

-- Which replicas run one that may have ended another is asked by each leasing. Hardly ever is there any.
CREATE INDEX requests_suspect_running ON requests (replica_id)
    WHERE state = 'running' AND alone AND failures > 0;

-- What is queued of a lane is found by `requests_in_lane`, whatever the planner knew when it made the plan
-- that it keeps: by one of these, one lane's would be sought among all. Each can only be used by a
-- statement that compares the column that its condition names.
CREATE INDEX requests_oldest ON requests (pool, priority DESC, place)
    WHERE state = 'queued' AND priority IS NOT NULL;
DROP INDEX requests_queued;
CREATE INDEX requests_by_endpoint ON requests (pool, tenant, endpoint, ranked_at, place)
    WHERE state = 'queued' AND endpoint IS NOT NULL;
DROP INDEX requests_of_endpoint;
