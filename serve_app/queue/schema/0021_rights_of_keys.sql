-- compatible since 1
-- What a key may do, and limits of tenants that operators set. The version before ignores `endpoints`: limit no key to endpoints while it runs.

-- endpoints: patterns of the only endpoints that the key may use; empty: all.
-- successor: of a key that was rotated.
-- person: who signed in; empty for a key of a program.
ALTER TABLE api_keys
    ADD COLUMN endpoints    text[] NOT NULL DEFAULT '{}',
    ADD COLUMN last_used_at timestamptz,
    ADD COLUMN successor    text,
    ADD COLUMN person       text NOT NULL DEFAULT '';

-- limits: those of TenantLimits that operators have set; they come before those of the settings.
ALTER TABLE tenants
    ADD COLUMN limits     jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN changed_at timestamptz NOT NULL DEFAULT now();
