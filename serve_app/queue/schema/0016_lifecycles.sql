-- Requests whose client said for how long their files are to be kept. Written before the request is:
-- one that never comes is forgotten a day later.

CREATE TABLE lifecycles (
    request_id uuid PRIMARY KEY,
    keep_s     double precision NOT NULL,    -- from the request's end
    created_at timestamptz NOT NULL DEFAULT now(),
    due_at     timestamptz                   -- null: the request had not ended when it was looked at
);
CREATE INDEX lifecycles_due ON lifecycles (due_at);
