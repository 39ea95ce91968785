-- compatible since 1
-- Where a request may run instead of its endpoint's own pool, as its endpoint's entry said at the submit; where it
-- runs, if that is elsewhere, and why. The version before stores requests without it. While both run, it would lease
-- such a request as one of the other endpoint's pool, so entries get their `fallback` after the update.

ALTER TABLE requests
    ADD COLUMN fallback json,
    ADD COLUMN fell_back_to text,
    ADD COLUMN fell_back_for text;

-- The endpoint that an attempt ran, if it is not its request's.
ALTER TABLE attempts ADD COLUMN endpoint text;

-- What requests of an endpoint that fell back are expected to cost, in the current period of its budget.
CREATE TABLE fallback_budgets (
    endpoint text NOT NULL,
    currency text NOT NULL,
    period   timestamptz NOT NULL,  -- its start
    spent    numeric NOT NULL,
    PRIMARY KEY (endpoint, currency)
) WITH (fillfactor = 50);

-- Count a request that falls back; false: its endpoint's budget does not cover it. `plan`: the column `fallback`. The
-- row of the budget is locked until the end of the transaction, so call it in the order of the endpoints.
CREATE FUNCTION spend_on_fallback(of_endpoint text, plan json) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    budget CONSTANT json := plan -> 'budget';
    cost CONSTANT numeric := coalesce((plan ->> 'cost')::numeric, 0);
    most CONSTANT numeric := (budget ->> 'amount')::numeric;
    begun timestamptz;
BEGIN
    IF budget IS NULL THEN
        RETURN true;
    ELSIF cost > most THEN
        RETURN false;
    END IF;
    begun := date_trunc(budget ->> 'period', now(), 'UTC');
    INSERT INTO fallback_budgets AS b (endpoint, currency, period, spent)
    VALUES (of_endpoint, budget ->> 'currency', begun, cost)
    ON CONFLICT (endpoint, currency) DO UPDATE
    SET spent = CASE WHEN b.period >= begun THEN b.spent ELSE 0 END + cost,
        period = greatest(b.period, begun)
    WHERE CASE WHEN b.period >= begun THEN b.spent ELSE 0 END + cost <= most;
    RETURN FOUND;
END
$$;
