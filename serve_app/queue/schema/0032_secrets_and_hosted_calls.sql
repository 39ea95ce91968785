-- compatible since 1
-- Secrets by name, encrypted with a key of the installation, and the calls of hosted providers. The version before
-- ignores both. It runs no endpoint that needs them.

CREATE TABLE secrets (
    owner      text NOT NULL,         -- a tenant; empty: the installation
    name       text NOT NULL,
    sealed     bytea NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    changed_by text NOT NULL,         -- id of an API key
    PRIMARY KEY (owner, name)
);

-- What was sent to a hosted provider for a request. A row is written before the socket is opened.
-- sending: it may have been accepted. accepted: the provider's id is known. refused: it was surely not
-- accepted. unconfirmed: nobody knows. repeated: the same, and the request was sent again.
CREATE TABLE hosted_calls (
    id          text PRIMARY KEY,     -- sent along where the provider takes a mark
    request_id  uuid NOT NULL,
    tenant      text NOT NULL,
    attempt     integer NOT NULL,
    provider    text NOT NULL,        -- a family, and the origin of its server
    owner       text NOT NULL,        -- of the secret that it was sent with
    endpoint    text NOT NULL,        -- the provider's
    input_hash  text NOT NULL,
    state       text NOT NULL DEFAULT 'sending' CHECK (state IN (
        'sending', 'accepted', 'refused', 'unconfirmed', 'repeated')),
    provider_id text,
    place       json,                 -- of the provider's job: its URLs
    sent_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
-- A request has at most one call that may cost money.
CREATE UNIQUE INDEX hosted_calls_of_request ON hosted_calls (request_id) WHERE state IN ('sending', 'accepted', 'unconfirmed');
-- A job of a provider belongs to one call.
CREATE UNIQUE INDEX hosted_calls_by_provider ON hosted_calls (provider, provider_id) WHERE provider_id IS NOT NULL;
-- Of equal calls whose answer may be lost, only one is under way, so that a list of the provider tells which it is.
CREATE UNIQUE INDEX hosted_calls_sending ON hosted_calls (provider, owner, endpoint, input_hash) WHERE state = 'sending';
CREATE INDEX hosted_calls_by_request ON hosted_calls (request_id);
CREATE INDEX hosted_calls_of_tenant ON hosted_calls (tenant);

-- A deletion, also by the version before, leaves no call.
CREATE FUNCTION forget_hosted_calls() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM hosted_calls WHERE request_id = OLD.id;
    RETURN NULL;
END
$$;
CREATE TRIGGER forget_deleted_hosted_calls AFTER DELETE ON requests
    FOR EACH ROW EXECUTE FUNCTION forget_hosted_calls();
CREATE TRIGGER forget_emptied_hosted_calls AFTER UPDATE OF deleted_at ON requests
    FOR EACH ROW WHEN (NEW.deleted_at IS NOT NULL) EXECUTE FUNCTION forget_hosted_calls();
