-- compatible since 1
-- Live settings of the configuration file when it was valid last, for an ingress that starts while
-- it is not.

CREATE TABLE live_settings (
    name       text PRIMARY KEY,
    settings   jsonb NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now()
);
