-- An idempotency key counts for its tenant and endpoint. `body_digest` tells a repeat from another
-- request under the same key.

DROP INDEX requests_idempotency;
CREATE UNIQUE INDEX requests_idempotency ON requests (tenant, endpoint, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

-- Submits whose answer did not reach the client, for API keys that ask for this. The next submit of
-- the same body by the same key takes the row, and gets the request.

ALTER TABLE api_keys ADD COLUMN replay_undelivered boolean NOT NULL DEFAULT false;

CREATE TABLE undelivered (
    request_id  uuid PRIMARY KEY,
    api_key     text NOT NULL,
    body_digest bytea NOT NULL,
    at          timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX undelivered_of_key ON undelivered (api_key, body_digest, at);
CREATE INDEX undelivered_at ON undelivered (at);

-- Outcomes that may be given to others. `reuse_digest` is that of endpoint and input, on requests that
-- allow it and make their own outcome; `reuses` is the request whose outcome this one was given.

ALTER TABLE requests ADD COLUMN reuse_digest bytea, ADD COLUMN reuses uuid;
CREATE INDEX requests_reusable ON requests (tenant, reuse_digest, id DESC)
    WHERE reuse_digest IS NOT NULL AND state = 'succeeded';
