-- compatible since 1
-- A draft that an unfinished request goes on from, or that a submit has just found, expires when its request is
-- deleted: it is not found any more, and its row and its file are deleted when it is free, as those of other expired drafts.

CREATE OR REPLACE FUNCTION forget_drafts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    WITH own AS (
        SELECT d.id, d.key, coalesce(d.held_until > now(), false) OR EXISTS (
            SELECT FROM requests r WHERE r.draft_key = d.key AND r.outcome IS NULL) AS used
        FROM drafts d WHERE d.request_id = OLD.id
        FOR UPDATE OF d
    ),
    outdated AS (
        UPDATE drafts d SET expires_at = least(d.expires_at, now()) FROM own o WHERE d.id = o.id AND o.used
    ),
    gone AS (DELETE FROM drafts d USING own o WHERE d.id = o.id AND NOT o.used RETURNING d.key)
    INSERT INTO unwanted (key, due_at) SELECT key, now() FROM gone ON CONFLICT (key) DO NOTHING;
    RETURN NULL;
END
$$;
