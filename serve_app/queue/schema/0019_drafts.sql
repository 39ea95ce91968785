-- compatible since 1
-- Drafts, which requests go on from. The version before makes none, and deletes none but with their requests.

-- facts: of the draft, as in the output of its request.
-- held_until: a request has found it, and is about to be stored.
CREATE TABLE drafts (
    id         text PRIMARY KEY,
    tenant     text NOT NULL,
    request_id uuid NOT NULL,
    key        text NOT NULL UNIQUE,
    size       bigint NOT NULL,
    sha256     text NOT NULL,
    facts      json NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    held_until timestamptz
);
CREATE INDEX drafts_of_tenant ON drafts (tenant, created_at DESC, id DESC);
CREATE INDEX drafts_of_request ON drafts (request_id);
CREATE INDEX drafts_by_expiry ON drafts (expires_at);

-- draft_key: of the draft that the request goes on from; null: none.
ALTER TABLE requests ADD COLUMN draft_key text;

-- A deletion, also by the version before, leaves no draft.
CREATE FUNCTION forget_drafts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    WITH gone AS (DELETE FROM drafts WHERE request_id = OLD.id RETURNING key)
    INSERT INTO unwanted (key, due_at) SELECT key, now() FROM gone ON CONFLICT (key) DO NOTHING;
    RETURN NULL;
END
$$;
CREATE TRIGGER forget_deleted_drafts AFTER DELETE ON requests
    FOR EACH ROW EXECUTE FUNCTION forget_drafts();
CREATE TRIGGER forget_emptied_drafts AFTER UPDATE OF deleted_at ON requests
    FOR EACH ROW WHEN (NEW.deleted_at IS NOT NULL) EXECUTE FUNCTION forget_drafts();
