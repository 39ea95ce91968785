-- compatible since 1
-- Tokens of the hub that tenants have set, encrypted with a key of the installation. The version before ignores them.

CREATE TABLE hub_tokens (
    tenant     text PRIMARY KEY,
    sealed     bytea NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    changed_by text NOT NULL
);
