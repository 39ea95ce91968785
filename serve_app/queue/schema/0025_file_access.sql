-- compatible since 1
-- Access rules of private files, by their digest, which is in the keys of the files. Rows never
-- change. The version before stores the files of a private request as it always did: readable by
-- anyone who knows their URLs.

CREATE TABLE file_access (
    id         text PRIMARY KEY,
    tenant     text NOT NULL,
    rules      jsonb NOT NULL,              -- `default`, and `users` with their decisions
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX file_access_of_tenant ON file_access (tenant);

-- Id of the access rules of a request's files. Null: they are public.
ALTER TABLE requests ADD COLUMN file_access text;

-- Signed URLs that are revoked. Writers take a lock, so that numbers become visible in their order.
CREATE SEQUENCE file_url_revocation_numbers;
CREATE TABLE file_url_revocations (
    key        text NOT NULL,
    signature  text NOT NULL,               -- empty: all URLs of the file before `generation`
    number     bigint NOT NULL,
    tenant     text NOT NULL,
    generation integer NOT NULL DEFAULT 0,
    expires_at timestamptz,                 -- of the URL; null: it does not expire
    revoked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (key, signature)
);
-- A restore drops tables, and with them the sequences that they own.
ALTER SEQUENCE file_url_revocation_numbers OWNED BY file_url_revocations.number;
CREATE UNIQUE INDEX file_url_revocations_by_number ON file_url_revocations (number);
CREATE INDEX file_url_revocations_of_tenant ON file_url_revocations (tenant);
