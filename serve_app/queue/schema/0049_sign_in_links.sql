-- compatible since 1
-- One-time links that open the page with a key of its own. The version before makes none.

CREATE TABLE sign_in_links (
    digest     bytea PRIMARY KEY,    -- SHA-256 of the token
    key_id     text NOT NULL,        -- whose rights the new key gets
    expires_at timestamptz NOT NULL
);
CREATE INDEX sign_in_links_by_expiry ON sign_in_links (expires_at);
