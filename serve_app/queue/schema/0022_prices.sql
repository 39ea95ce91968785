-- compatible since 1
-- What a request costs is fixed when it is submitted, and its usage line says what it was billed.
-- All of it is null for a request without a price.

ALTER TABLE requests
    ADD COLUMN key_id   text,     -- of the API key that submitted it
    ADD COLUMN price    jsonb,    -- unit, amount (as text) and currency
    ADD COLUMN reserved numeric;  -- of the tenant's budget, until it ends

ALTER TABLE usage
    ADD COLUMN key_id       text,
    ADD COLUMN images       integer NOT NULL DEFAULT 0,
    ADD COLUMN megapixels   integer NOT NULL DEFAULT 0,  -- of each image, rounded up
    ADD COLUMN price        jsonb,
    ADD COLUMN billed       numeric,     -- units of the price; 0 unless it computed and succeeded
    ADD COLUMN amount       numeric,     -- billed units times the price's amount
    ADD COLUMN reserved     numeric,     -- what `requests` had reserved, with a budget
    ADD COLUMN submitted_at timestamptz;  -- with a budget: its period counts by the submit

-- Usage that is older than DARKROOM_USAGE_DETAIL_DAYS, summed by day (UTC) and by all that it can be
-- asked for. The sums are exact: decimal numbers.
CREATE TABLE usage_days (
    day      date NOT NULL,
    tenant   text NOT NULL,
    key_id   text,
    endpoint text NOT NULL,
    state    text NOT NULL,
    price    jsonb,
    requests bigint NOT NULL,
    run_s    numeric NOT NULL,
    steps    numeric NOT NULL,
    units    numeric NOT NULL,
    images   bigint NOT NULL,
    megapixels bigint NOT NULL,
    billed   numeric,
    amount   numeric
);
CREATE UNIQUE INDEX usage_days_of_tenant
    ON usage_days (tenant, day, endpoint, state, key_id, price) NULLS NOT DISTINCT;
