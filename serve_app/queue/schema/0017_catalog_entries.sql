-- compatible since 1
-- Entries of the catalogue that operators have added. The version before ignores them.

CREATE TABLE catalog_entries (
    endpoint   text PRIMARY KEY,
    entry      json NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    changed_by text NOT NULL
);
