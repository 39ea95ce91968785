-- compatible since 1
-- What was summed up for a budget is stored also if nothing is admitted: a tenant without budget that
-- goes on submitting had its whole period summed up by each of its submits.

CREATE OR REPLACE FUNCTION admit_requests(
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
    summed boolean := false;
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
            summed := true;
        ELSIF q.settled_at < at - settle_after THEN
            q.settled := q.settled
                + budget_freed(of_tenant, q.period, q.settled_at, at - late);
            q.settled_at := at - late;
            summed := true;
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
    IF summed OR '' = ANY(verdicts) THEN
        UPDATE tenant_quotas t SET tat = q.tat, unit = q.unit, currency = q.currency,
            period = q.period, reserved = q.reserved, settled = q.settled,
            settled_at = q.settled_at
        WHERE t.tenant = of_tenant;
    END IF;
END
$$;
