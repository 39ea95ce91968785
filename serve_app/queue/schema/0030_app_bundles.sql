-- compatible since 1
-- Code of apps, which replicas of executors fetch by its digest. Entries of the catalogue name it.

CREATE TABLE app_bundles (
    digest     text PRIMARY KEY,  -- SHA-256 of the content, hex
    content    bytea NOT NULL,    -- a zip file
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_by text NOT NULL      -- id of an API key
);
ALTER TABLE app_bundles ALTER COLUMN content SET STORAGE EXTERNAL;
