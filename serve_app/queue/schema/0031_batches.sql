-- compatible since 1
-- Batches: many requests from one file. The version before runs none; it continues the requests that are stored,
-- and deletes no row here but those of files.

-- Each is an upload of its tenant, which holds the content and its age.
CREATE TABLE batch_files (
    id         text PRIMARY KEY,
    tenant     text NOT NULL,
    key        text NOT NULL UNIQUE,
    name       text NOT NULL,
    purpose    text NOT NULL,
    batch_id   text,                   -- that wrote it; null: a client uploaded it
    size       bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX batch_files_of_tenant ON batch_files (tenant, created_at, id);
CREATE INDEX batch_files_of_batch ON batch_files (batch_id) WHERE batch_id IS NOT NULL;

-- The end of an upload, also by the version before, is the end of its file.
CREATE FUNCTION forget_batch_file() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM batch_files WHERE key = OLD.key;
    RETURN NULL;
END
$$;
CREATE TRIGGER forget_unwanted_batch_files AFTER UPDATE OF state ON uploads
    FOR EACH ROW WHEN (NEW.state = 'unwanted' AND OLD.state <> 'unwanted')
    EXECUTE FUNCTION forget_batch_file();
CREATE TRIGGER forget_deleted_batch_files AFTER DELETE ON uploads
    FOR EACH ROW EXECUTE FUNCTION forget_batch_file();

-- stop: no more requests are sent; null: they are. completed, failed: lines that have ended, counted
-- by the statement that ends them. notice_at: next call of the webhook; null: none is due.
CREATE TABLE batches (
    id             text PRIMARY KEY,
    tenant         text NOT NULL,
    key_id         text NOT NULL,
    origin         text NOT NULL,
    endpoint       text NOT NULL,
    input_file     text NOT NULL,
    input_key      text NOT NULL,
    status         text NOT NULL DEFAULT 'validating' CHECK (status IN (
        'validating', 'in_progress', 'cancelling', 'finalizing', 'failed', 'completed', 'expired',
        'cancelled')),
    stop           text CHECK (stop IN ('cancelled', 'expired')),
    errors         json NOT NULL DEFAULT '[]',
    metadata       json,
    keep_outputs_s double precision,
    total          integer NOT NULL DEFAULT 0,
    completed      integer NOT NULL DEFAULT 0,
    failed         integer NOT NULL DEFAULT 0,
    output_file    text,
    error_file     text,
    created_at     timestamptz NOT NULL DEFAULT now(),
    expires_at     timestamptz NOT NULL,
    in_progress_at timestamptz,
    cancelling_at  timestamptz,
    finalizing_at  timestamptz,
    ended_at       timestamptz,
    webhook        text,
    notice_tries   integer NOT NULL DEFAULT 0,
    notice_at      timestamptz
) WITH (fillfactor = 50);
CREATE INDEX batches_of_tenant ON batches (tenant, created_at, id);
CREATE INDEX batches_active ON batches (created_at, id) WHERE ended_at IS NULL;
CREATE INDEX batches_ended ON batches (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX batches_to_notify ON batches (notice_at) WHERE notice_at IS NOT NULL;

-- Lines of batches that have not ended. sending: it has the id of its request, which may be stored;
-- sent: it is stored. start, size: bytes of the line in the input file.
CREATE TABLE batch_lines (
    batch_id   text NOT NULL REFERENCES batches ON DELETE CASCADE,
    line       integer NOT NULL,
    custom_id  text NOT NULL,
    start      bigint NOT NULL,
    size       integer NOT NULL,
    state      text NOT NULL DEFAULT 'waiting' CHECK (state IN (
        'waiting', 'sending', 'sent', 'succeeded', 'failed')),
    request_id uuid,
    result     json,
    PRIMARY KEY (batch_id, line)
) WITH (fillfactor = 70);
CREATE INDEX batch_lines_by_state ON batch_lines (batch_id, state, line);
