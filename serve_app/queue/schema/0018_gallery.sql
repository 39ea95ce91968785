-- compatible since 1
-- Thumbnails, the words of prompts, favourites and share links. The version before makes none of them, and
-- recomputes outcomes that it could share, since it counts the thumbnails among their files.

-- thumbnail_of: key of the file that this one is a small image of; null: an output.
ALTER TABLE artifacts ADD COLUMN thumbnail_of text;

-- Words of a request's prompt, and its tenant as a word that begins with @. A request whose input is
-- not to be kept has no row. Rows of the version before are missing: their requests are not found.
CREATE TABLE request_words (
    tenant     text NOT NULL,
    request_id uuid NOT NULL,
    words      tsvector NOT NULL,
    PRIMARY KEY (tenant, request_id)
);
-- New words wait in a list, which a task moves into the index: an insert never does it.
CREATE INDEX request_words_found ON request_words USING gin (words)
    WITH (fastupdate = on, gin_pending_list_limit = 16384);

CREATE TABLE favourites (
    tenant     text NOT NULL,
    request_id uuid NOT NULL,
    at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, request_id)
);

-- digest: SHA-256 of the link's token, which is stored nowhere.
CREATE TABLE share_links (
    id         text PRIMARY KEY,
    digest     bytea NOT NULL UNIQUE,
    tenant     text NOT NULL,
    request_id uuid NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);
CREATE INDEX share_links_of_tenant ON share_links (tenant, created_at DESC, id);
CREATE INDEX share_links_of_request ON share_links (request_id);

-- A GIN index is read by bitmap scans only, which the queue's sessions forbid.
CREATE FUNCTION requests_with_words(wanted tsquery, most integer) RETURNS SETOF uuid
LANGUAGE plpgsql STABLE
SET enable_bitmapscan = on
SET enable_indexscan = off
SET enable_indexonlyscan = off
AS $$
BEGIN
    RETURN QUERY SELECT w.request_id FROM request_words w WHERE w.words @@ wanted LIMIT most;
END
$$;

-- A deletion, also by the version before, leaves neither words, favourites nor share links.
CREATE FUNCTION forget_in_gallery() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM request_words WHERE tenant = OLD.tenant AND request_id = OLD.id;
    DELETE FROM share_links WHERE request_id = OLD.id;
    DELETE FROM favourites WHERE tenant = OLD.tenant AND request_id = OLD.id;
    RETURN NULL;
END
$$;
CREATE TRIGGER forget_deleted_in_gallery AFTER DELETE ON requests
    FOR EACH ROW EXECUTE FUNCTION forget_in_gallery();
CREATE TRIGGER forget_emptied_in_gallery AFTER UPDATE OF deleted_at ON requests
    FOR EACH ROW WHEN (NEW.deleted_at IS NOT NULL) EXECUTE FUNCTION forget_in_gallery();
