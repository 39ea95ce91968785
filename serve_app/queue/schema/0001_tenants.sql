-- Who pays, and with which keys they come.

CREATE TABLE tenants (
    id          text PRIMARY KEY,
    name        text NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL DEFAULT now(),
    disabled_at timestamptz
);

CREATE TABLE api_keys (
    id          text PRIMARY KEY,
    tenant      text NOT NULL REFERENCES tenants (id),
    digest      bytea NOT NULL,              -- SHA-256 of the secret; the secret itself is stored nowhere
    scopes      text[] NOT NULL DEFAULT '{}',
    name        text NOT NULL DEFAULT '',
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz,
    revoked_at  timestamptz
);
CREATE INDEX api_keys_of_tenant ON api_keys (tenant);

CREATE TABLE audit (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT now(),
    actor   text NOT NULL,                   -- a key's id, or `operator`
    action  text NOT NULL,
    subject text NOT NULL DEFAULT '',
    detail  json
);

-- What all ingress replicas share, such as the key that signs upload tickets.
CREATE TABLE installation (
    key   text PRIMARY KEY,
    value text NOT NULL
);
