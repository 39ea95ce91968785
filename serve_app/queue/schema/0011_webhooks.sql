-- Webhooks: who is called when a request has ended, with what, and how that went.

-- Origin of the URLs in the body of the request's webhook.
ALTER TABLE requests ADD COLUMN webhook_origin text;

ALTER TABLE webhook_deliveries
    -- With `tenant`: the channel. Receivers that fail delay their channel only.
    ADD COLUMN host text NOT NULL GENERATED ALWAYS AS (
        coalesce(lower(substring(url from '^[a-z]+://(?:[^/?#@]*@)?([^/?#]+)')), '')) STORED,
    ADD COLUMN claims integer NOT NULL DEFAULT 0,        -- grows with each claim: the fence
    ADD COLUMN since timestamptz NOT NULL DEFAULT now(), -- begin of this round of tries
    ADD COLUMN ended_at timestamptz,
    ADD COLUMN body bytea,                               -- as it is sent, each time
    ADD COLUMN status integer,                           -- HTTP, of the last try
    ADD COLUMN error text NOT NULL DEFAULT '';           -- of the last try

DROP INDEX webhook_deliveries_due;
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (tenant, host, due_at)
    WHERE state = 'pending';
CREATE INDEX webhook_deliveries_since ON webhook_deliveries (since) WHERE state = 'pending';
CREATE INDEX webhook_deliveries_of_tenant ON webhook_deliveries (tenant, request_id DESC);
CREATE INDEX webhook_deliveries_dead ON webhook_deliveries (tenant, request_id DESC)
    WHERE state = 'dead';

CREATE TABLE webhook_tries (
    delivery uuid NOT NULL REFERENCES webhook_deliveries (id) ON DELETE CASCADE,
    claim    integer NOT NULL,
    at       timestamptz NOT NULL DEFAULT now(),
    took_s   double precision NOT NULL,
    status   integer,                        -- HTTP; null: there was no answer
    error    text NOT NULL DEFAULT '',
    PRIMARY KEY (delivery, claim)
);

-- What signs them.
CREATE TABLE webhook_keys (
    kid        text PRIMARY KEY,
    seed       text NOT NULL,                -- hex; of Ed25519
    created_at timestamptz NOT NULL DEFAULT now(),
    signs_from timestamptz NOT NULL
);
