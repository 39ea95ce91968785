-- compatible since 1
-- The audit log as a chain of hashes, and the deletion of tenants. A task of one ingress process seals entries after their commit:
-- it numbers them without gaps, in the order in which it sees them, and writes the hash of each, which
-- covers the hash of the entry before. Acts are written as before. Entries of the version before are
-- sealed as well.

ALTER TABLE audit
    ADD COLUMN sequence bigint,  -- place in the chain, from 1; null: not sealed yet
    ADD COLUMN tenant   text,    -- whom the act is about; empty: no tenant. Set when it is sealed
    ADD COLUMN previous text,    -- hash of the entry before; of the first one 64 zeros
    ADD COLUMN hash     text;    -- SHA-256, hexadecimal

-- Sealed entries do not change, and only `prune_audit` deletes them. So the version before, which
-- deletes by age without a checkpoint, deletes none of them during an update.
CREATE FUNCTION keep_sealed_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        RAISE EXCEPTION 'entry % of the audit log is sealed and cannot be changed', OLD.sequence;
    END IF;
    IF coalesce(current_setting('darkroom.prunes_audit', true), '') = 'on' THEN
        RETURN OLD;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER keep_sealed_entries BEFORE UPDATE OR DELETE ON audit
    FOR EACH ROW WHEN (OLD.sequence IS NOT NULL) EXECUTE FUNCTION keep_sealed_audit();

-- Delete the oldest entries of the chain, at most `most`, up to the first one that is younger, and
-- never the newest. A new entry, the checkpoint, says where the chain begins now. Old checkpoints
-- alone are not deleted: each deletion would make another one.
CREATE FUNCTION prune_audit(age_s double precision, most integer) RETURNS integer
LANGUAGE plpgsql
SET darkroom.prunes_audit = 'on'
AS $$
DECLARE
    last_sequence bigint;
    last_hash text;
    acts integer;
    gone integer;
BEGIN
    WITH oldest AS (
        SELECT a.sequence, a.hash, a.action, a.at < now() - make_interval(secs => age_s) AS aged
        FROM audit a WHERE a.sequence IS NOT NULL ORDER BY a.sequence LIMIT most
    ),
    doomed AS (
        SELECT * FROM oldest o
        WHERE o.sequence < coalesce(
                (SELECT min(y.sequence) FROM oldest y WHERE NOT y.aged), 9223372036854775807)
          AND o.sequence < (SELECT max(a.sequence) FROM audit a WHERE a.sequence IS NOT NULL)
    )
    SELECT max(d.sequence), (array_agg(d.hash ORDER BY d.sequence DESC))[1],
           count(*) FILTER (WHERE d.action <> 'audit.prune'), count(*)
    INTO last_sequence, last_hash, acts, gone FROM doomed d;
    IF acts = 0 THEN
        RETURN 0;
    END IF;
    DELETE FROM audit a WHERE a.sequence <= last_sequence;
    INSERT INTO audit (actor, action, detail) VALUES ('', 'audit.prune', json_build_object(
        'sequence', last_sequence, 'hash', last_hash, 'entries', gone));
    RETURN gone;
END
$$;

-- Deletions of tenants. A row whose `ended_at` is null is a job: one ingress process after the other
-- goes on with it until nothing of the tenant is left.
CREATE TABLE tenant_deletions (
    tenant   text PRIMARY KEY,
    asked_at timestamptz NOT NULL,
    actor    text NOT NULL,      -- id of the key
    kept_as  text,               -- tenant of its sums of usage afterwards; null: they are deleted
    ended_at timestamptz
);

-- A tenant that is being deleted stays disabled, whatever the version that is asked to enable it.
CREATE FUNCTION keep_disabled() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM tenant_deletions d WHERE d.tenant = OLD.id AND d.ended_at IS NULL) THEN
        NEW.disabled_at := coalesce(OLD.disabled_at, now());
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER keep_disabled_until_deleted BEFORE UPDATE OF disabled_at ON tenants
    FOR EACH ROW WHEN (NEW.disabled_at IS NULL) EXECUTE FUNCTION keep_disabled();
