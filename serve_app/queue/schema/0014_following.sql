-- Requests that wait for the outcome of another that makes the same. Those for the same are a group,
-- named by the id of the first: one of them leads, which is queued or runs like any other, and the rest
-- are `following`, which is no state that anybody is told of: they are queued, and no lease, count or
-- estimate that looks for what is queued sees them.

ALTER TABLE requests
    ADD COLUMN leads uuid,                   -- the group for which it makes the outcome
    ADD COLUMN follows uuid;                 -- the group whose outcome it waits for
ALTER TABLE requests
    DROP CONSTRAINT requests_state_check,
    DROP CONSTRAINT requests_check1,
    ADD CONSTRAINT requests_state_check CHECK (
        state IN ('queued', 'following', 'running', 'succeeded', 'failed', 'cancelled', 'expired')),
    ADD CONSTRAINT requests_outcome_check CHECK (
        (state IN ('queued', 'following', 'running')) = (outcome IS NULL)),
    ADD CONSTRAINT requests_follows_check CHECK ((state = 'following') = (follows IS NOT NULL));

CREATE UNIQUE INDEX requests_leading ON requests (leads)
    WHERE leads IS NOT NULL AND outcome IS NULL;
CREATE INDEX requests_led ON requests (leads, id DESC)
    WHERE leads IS NOT NULL AND state = 'succeeded';
CREATE INDEX requests_wished ON requests (tenant, reuse_digest)
    WHERE leads IS NOT NULL AND outcome IS NULL;
CREATE INDEX requests_following ON requests (follows, ranked_at, place)
    WHERE state = 'following';
CREATE INDEX requests_following_start_by ON requests (start_by)
    WHERE state = 'following' AND start_by IS NOT NULL;

-- Who has files of whose making, which are kept as long as anybody has them.
CREATE INDEX requests_reusing ON requests (reuses) WHERE reuses IS NOT NULL;
