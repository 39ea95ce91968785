-- Snapshots of running requests, which lie in storage, and what in storage nobody wants any more.

ALTER TABLE requests
    ADD COLUMN snapshot text,                -- key of the latest; the next attempt goes on from it
    ADD COLUMN snapshot_step integer;        -- steps that were done when it was taken
CREATE INDEX requests_snapshot ON requests (id) WHERE snapshot IS NOT NULL;

-- A key enters when its ticket is given out and leaves when what was uploaded is wanted; so
-- whatever a replica that died has uploaded is deleted as well.
CREATE TABLE unwanted (
    key    text PRIMARY KEY,
    due_at timestamptz NOT NULL              -- not before: somebody may be uploading it
);
CREATE INDEX unwanted_due ON unwanted (due_at);
