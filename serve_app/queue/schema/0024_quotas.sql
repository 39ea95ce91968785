-- compatible since 1
-- Rates and budgets of tenants, and what replicas cost.

-- Rate and budget of a tenant that has one: locked by each statement that stores its requests.
-- A budget counts what was reserved by requests that were submitted in its period, less what those
-- that have ended did not cost: `settled` of those that ended before `settled_at`, and the lines of
-- `usage` since then. So no statement that ends a request needs this row.
CREATE TABLE tenant_quotas (
    tenant     text PRIMARY KEY,
    tat        timestamptz NOT NULL DEFAULT '-infinity',  -- of its rate: time up to which calls are used
    unit       text NOT NULL DEFAULT '',                  -- day or month
    currency   text NOT NULL DEFAULT '',
    period     timestamptz NOT NULL DEFAULT '-infinity',  -- its start, UTC
    reserved   numeric NOT NULL DEFAULT 0,
    settled    numeric NOT NULL DEFAULT 0,
    settled_at timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50);

-- What requests of the period that ended since a time had reserved and did not cost.
CREATE FUNCTION budget_freed(of_tenant text, of_period timestamptz, since timestamptz, until timestamptz)
RETURNS numeric LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(u.reserved - coalesce(u.amount, 0)), 0) FROM usage u
    WHERE u.tenant = of_tenant AND u.reserved IS NOT NULL AND u.at >= since AND u.at < until
      AND u.submitted_at >= of_period
$$;

-- Decide which requests of a tenant are stored, in their order. `verdicts`: for each of `reserves`
-- (null: it does not count towards the budget) an empty text, or `rate` or `budget`. `every_s`:
-- time that a call costs; null: no rate. `unit`, `budget`: null for none; a budget that does not
-- stop only counts. Other statements for the tenant wait until this one has committed. Each
-- statement of a volatile function sees what was committed before it, so what is read under the
-- lock is all that counts. Lines of `usage` are settled when they are a minute old, since then every
-- statement that wrote older ones has ended. A new period, or a new budget, counts what the period
-- has cost before it.
CREATE FUNCTION admit_requests(
    of_tenant text, every_s double precision, burst integer, of_unit text, of_currency text,
    budget numeric, stops boolean, reserves numeric[],
    OUT verdicts text[], OUT wait_s double precision, OUT remaining integer,
    OUT reset_s double precision, OUT free numeric)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    settle_after CONSTANT interval := '5 min';
    late CONSTANT interval := '1 min';
    cost interval := make_interval(secs => coalesce(every_s, 0));
    at timestamptz;
    begun timestamptz;
    q tenant_quotas%ROWTYPE;
    each numeric;
BEGIN
    INSERT INTO tenant_quotas (tenant) VALUES (of_tenant) ON CONFLICT DO NOTHING;
    SELECT * INTO q FROM tenant_quotas WHERE tenant = of_tenant FOR UPDATE;
    at := clock_timestamp();
    IF budget IS NOT NULL THEN
        begun := date_trunc(of_unit, now(), 'UTC');
        IF q.period < begun OR (q.unit, q.currency) IS DISTINCT FROM (of_unit, of_currency) THEN
            SELECT coalesce(sum(coalesce(u.reserved, u.amount)), 0) INTO q.reserved FROM usage u
            WHERE u.tenant = of_tenant AND u.at >= begun AND u.price ->> 'currency' = of_currency
              AND coalesce(u.submitted_at, u.at) >= begun;
            IF q.unit <> '' AND q.unit <> of_unit THEN
                SELECT q.reserved + coalesce(sum(r.reserved), 0) INTO q.reserved FROM requests r
                WHERE r.tenant = of_tenant AND r.outcome IS NULL AND r.created_at >= begun
                  AND r.price ->> 'currency' = of_currency;
            END IF;
            q.unit := of_unit; q.currency := of_currency;
            q.period := begun; q.settled := 0; q.settled_at := begun;
        ELSIF q.settled_at < at - settle_after THEN
            q.settled := q.settled
                + budget_freed(of_tenant, q.period, q.settled_at, at - late);
            q.settled_at := at - late;
        END IF;
        free := budget - q.reserved + q.settled
            + budget_freed(of_tenant, q.period, q.settled_at, 'infinity');
    END IF;
    q.tat := greatest(q.tat, at);
    FOREACH each IN ARRAY reserves LOOP
        IF every_s IS NOT NULL AND q.tat + cost - at > burst * cost THEN
            verdicts := array_append(verdicts, 'rate');
        ELSIF budget IS NOT NULL AND stops AND each > 0 AND each > free THEN
            verdicts := array_append(verdicts, 'budget');
        ELSE
            verdicts := array_append(verdicts, '');
            q.tat := q.tat + cost;
            free := free - coalesce(each, 0);
            q.reserved := q.reserved + CASE WHEN budget IS NULL THEN 0 ELSE coalesce(each, 0) END;
        END IF;
    END LOOP;
    IF every_s IS NOT NULL THEN
        wait_s := greatest(0, extract(epoch FROM q.tat + cost - at) - burst * every_s);
        reset_s := extract(epoch FROM q.tat - at);
        remaining := greatest(0, floor(burst - reset_s / every_s));
    END IF;
    IF '' = ANY(verdicts) THEN
        UPDATE tenant_quotas t SET tat = q.tat, unit = q.unit, currency = q.currency,
            period = q.period, reserved = q.reserved, settled = q.settled,
            settled_at = q.settled_at
        WHERE t.tenant = of_tenant;
    END IF;
END
$$;

-- Warnings about budgets: each threshold once in a period. They are the outbox of their webhooks.
CREATE TABLE budget_warnings (
    tenant       text NOT NULL,
    period       timestamptz NOT NULL,
    threshold    double precision NOT NULL,  -- share of the budget
    created_at   timestamptz NOT NULL DEFAULT now(),
    used         numeric NOT NULL,           -- cost, and reserved
    budget       numeric NOT NULL,
    currency     text NOT NULL,
    url          text,                       -- null: no webhook
    tries        integer NOT NULL DEFAULT 0,
    next_at      timestamptz,                -- null: delivered, or given up
    PRIMARY KEY (tenant, period, threshold)
);
CREATE INDEX budget_warnings_due ON budget_warnings (next_at) WHERE next_at IS NOT NULL;

-- Seconds of replicas by hour, pool and class of GPU, sampled while they are alive.
CREATE TABLE replica_hours (
    hour     timestamptz NOT NULL,
    pool     text NOT NULL,
    gpu      text NOT NULL,              -- class; empty: no GPU, or not known
    paid_s   numeric NOT NULL,           -- sum over the replicas that were alive
    busy_s   numeric NOT NULL,           -- of these, that ran a request
    PRIMARY KEY (hour, pool, gpu)
);
