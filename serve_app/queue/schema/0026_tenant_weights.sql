-- compatible since 1
-- Weights that tenants have registered. The version before ignores them: a request that names some waits for a replica of this one, or fails.

-- source: one of upload, url, hub, files. due_at: another process may take the job from then on.
-- base_weights: source and revision of the base's weights that it was checked against.
-- size: bytes that count towards the quota. problem: why it was refused.
CREATE TABLE tenant_weights (
    tenant       text NOT NULL,
    name         text NOT NULL,
    kind         text NOT NULL DEFAULT '',   -- empty: not known yet
    base         text NOT NULL,              -- endpoint
    base_weights text NOT NULL DEFAULT '',
    source       jsonb NOT NULL,
    state        text NOT NULL DEFAULT 'waiting'
        CHECK (state IN ('waiting', 'fetching', 'checking', 'ready', 'refused')),
    problem      text NOT NULL DEFAULT '',
    size         bigint NOT NULL DEFAULT 0,
    done         bigint NOT NULL DEFAULT 0,  -- bytes that were fetched
    facts        jsonb NOT NULL DEFAULT '{}',  -- what the files say of themselves
    endpoint     text,                       -- private endpoint that serves it; null: none
    scale        double precision NOT NULL DEFAULT 1,  -- of a LoRA in its endpoint
    public       boolean NOT NULL DEFAULT false,
    tries        integer NOT NULL DEFAULT 0,
    worker       text NOT NULL DEFAULT '',
    due_at       timestamptz NOT NULL DEFAULT now(),
    created_at   timestamptz NOT NULL DEFAULT now(),
    changed_at   timestamptz NOT NULL DEFAULT now(),
    created_by   text NOT NULL,
    PRIMARY KEY (tenant, name)
);
CREATE UNIQUE INDEX tenant_weights_endpoint ON tenant_weights (endpoint) WHERE endpoint IS NOT NULL;
CREATE INDEX tenant_weights_jobs ON tenant_weights (due_at)
    WHERE state IN ('waiting', 'fetching', 'checking');

-- Files in storage, each once whoever registered it. touched_at: of the last use; a file without
-- any is deleted a day later, so that requests that were queued still find it.
CREATE TABLE weight_files (
    digest     text PRIMARY KEY,  -- SHA-256, in hex
    key        text NOT NULL UNIQUE,
    size       bigint NOT NULL,
    stored     boolean NOT NULL DEFAULT false,
    touched_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE tenant_weight_files (
    tenant text NOT NULL,
    name   text NOT NULL,
    path   text NOT NULL,  -- in the pipeline's folder; a LoRA's file has no folder
    digest text NOT NULL,
    size   bigint NOT NULL,
    PRIMARY KEY (tenant, name, path),
    FOREIGN KEY (tenant, name) REFERENCES tenant_weights ON DELETE CASCADE
);
CREATE INDEX tenant_weight_files_digest ON tenant_weight_files (digest);

CREATE FUNCTION touch_weight_file() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE weight_files SET touched_at = now() WHERE digest = OLD.digest;
    RETURN NULL;
END
$$;
CREATE TRIGGER touch_weight_file AFTER DELETE ON tenant_weight_files
    FOR EACH ROW EXECUTE FUNCTION touch_weight_file();
