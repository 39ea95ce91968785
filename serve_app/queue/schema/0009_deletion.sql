-- Requests that were deleted, or whose input and outcome are not to be kept.

ALTER TABLE requests
    -- Emptied; the row is there for its idempotency key only, and nobody sees it.
    ADD COLUMN deleted_at timestamptz,
    -- What is to be forgotten next of a request that came with `X-Fal-Store-IO: 0`; null: nothing.
    ADD COLUMN forgetting text CHECK (forgetting IN ('input', 'outcome', 'done'));
CREATE INDEX requests_deleted ON requests (created_at) WHERE deleted_at IS NOT NULL;
CREATE INDEX requests_to_forget ON requests (forgetting, finished_at)
    WHERE forgetting IN ('input', 'outcome') AND finished_at IS NOT NULL;
