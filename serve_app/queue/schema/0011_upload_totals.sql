-- compatible since 1
-- Bytes of each tenant's whole uploads, so that an offer need not read an index entry of each file.
-- Triggers keep them: the statements that end an upload are many, and those of the version before
-- count as well. A statement changes the totals last, in the order of the tenants, and waits for
-- nothing afterwards, so no two deadlock.

CREATE TABLE upload_totals (
    tenant text PRIMARY KEY,
    bytes  bigint NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);

CREATE FUNCTION add_to_upload_totals() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO upload_totals AS t (tenant, bytes)
        SELECT tenant, sum(size) FROM added WHERE state = 'whole' GROUP BY tenant ORDER BY tenant
        ON CONFLICT (tenant) DO UPDATE SET bytes = t.bytes + excluded.bytes;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO upload_totals AS t (tenant, bytes)
        SELECT tenant, -sum(size) FROM removed WHERE state = 'whole' GROUP BY tenant ORDER BY tenant
        ON CONFLICT (tenant) DO UPDATE SET bytes = t.bytes + excluded.bytes;
    ELSE
        INSERT INTO upload_totals AS t (tenant, bytes)
        SELECT tenant, sum(change) FROM (
            SELECT tenant, size AS change FROM added WHERE state = 'whole'
            UNION ALL
            SELECT tenant, -size FROM removed WHERE state = 'whole') x
        GROUP BY tenant HAVING sum(change) <> 0 ORDER BY tenant
        ON CONFLICT (tenant) DO UPDATE SET bytes = t.bytes + excluded.bytes;
    END IF;
    RETURN NULL;
END
$$;

-- The first trigger keeps writers out until the totals are filled.

CREATE TRIGGER add_inserted_uploads AFTER INSERT ON uploads
REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION add_to_upload_totals();

CREATE TRIGGER add_changed_uploads AFTER UPDATE ON uploads
REFERENCING OLD TABLE AS removed NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION add_to_upload_totals();

CREATE TRIGGER subtract_deleted_uploads AFTER DELETE ON uploads
REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION add_to_upload_totals();

INSERT INTO upload_totals (tenant, bytes)
SELECT tenant, sum(size) FROM uploads WHERE state = 'whole' GROUP BY tenant;
