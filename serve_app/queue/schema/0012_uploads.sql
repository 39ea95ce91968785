-- Files that clients bring. A row is there before its object is, so nothing lies in storage that no
-- row names.

CREATE TABLE uploads (
    key        text PRIMARY KEY,             -- of the object in storage
    id         text NOT NULL,                -- 128 random bits: who knows them may send the content
    tenant     text NOT NULL,
    media_type text NOT NULL,
    keep_s     double precision,             -- asked for; null: as the tenant's retention says
    parts_id   text,                         -- the storage's name of an upload in parts
    state      text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'whole', 'unwanted')),
    size       bigint,                       -- bytes
    created_at timestamptz NOT NULL DEFAULT now(),
    due_at     timestamptz,                  -- to be deleted then; null: not by itself
    CHECK ((state = 'whole') <= (size IS NOT NULL))
);
CREATE INDEX uploads_due ON uploads (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX uploads_of_tenant ON uploads (tenant, created_at) WHERE state = 'whole';

CREATE TABLE upload_parts (
    key    text NOT NULL REFERENCES uploads (key) ON DELETE CASCADE,
    number integer NOT NULL,
    etag   text NOT NULL,                    -- without quotes
    size   bigint NOT NULL,                  -- bytes
    PRIMARY KEY (key, number)
);
