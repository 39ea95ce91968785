-- Previews of running requests. Like progress they may be lost, and go with it. The pictures are
-- JPEGs, which do not get smaller.

ALTER TABLE progress
    ADD COLUMN rate double precision NOT NULL DEFAULT 0,   -- steps a second; 0: not known
    ADD COLUMN preview bytea,
    ADD COLUMN preview_step bigint NOT NULL DEFAULT 0,     -- 0: there is none
    ADD COLUMN watched_until timestamptz,                  -- somebody looks at the previews
    ALTER COLUMN preview SET STORAGE EXTERNAL;

ALTER TABLE requests
    ADD COLUMN previews boolean NOT NULL DEFAULT true;     -- may be made
