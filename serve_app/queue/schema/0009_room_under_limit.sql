-- compatible since 1
-- Counts of what runs under a limit, so that a leasing need not read an index entry of each. They
-- are kept only for names whose entries are many, and each is a bound that stays right whatever
-- happens later: of what began before `since`, at most `counted` run, and nothing that runs began
-- before `first`. So nobody corrects them when an attempt ends, and a lost one is made again.

CREATE UNLOGGED TABLE running_counts (
    kind    text NOT NULL,
    name    text NOT NULL,
    counted integer NOT NULL,
    since   timestamptz NOT NULL,
    first   timestamptz NOT NULL,
    PRIMARY KEY (kind, name)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01);

-- What runs of a tenant or endpoint from a time on, in the order of the start, `most` at most:
-- how many, how many of them began before `boundary`, and the start of the first one. Volatile,
-- since each statement of a volatile function sees what was committed before it.

CREATE FUNCTION count_running(
    of_kind text, of_name text, started_from timestamptz, boundary timestamptz, most integer,
    OUT total integer, OUT before integer, OUT first timestamptz)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF of_kind = 'tenant' THEN
        SELECT count(*), count(*) FILTER (WHERE x.started_at < boundary), min(x.started_at)
        INTO total, before, first FROM (
            SELECT r.started_at FROM requests r
            WHERE r.state = 'running' AND r.tenant = of_name AND r.started_at >= started_from
            ORDER BY r.started_at LIMIT most) x;
    ELSE
        SELECT count(*), count(*) FILTER (WHERE x.started_at < boundary), min(x.started_at)
        INTO total, before, first FROM (
            SELECT r.started_at FROM requests r
            WHERE r.state = 'running' AND r.endpoint = of_name AND r.started_at >= started_from
            ORDER BY r.started_at LIMIT most) x;
    END IF;
END
$$;

-- How many more requests of a tenant or endpoint may run: exactly, if it is less than `wanted`, and
-- otherwise at least `wanted`. Until the end of its transaction, no other one gets a number for the
-- same name: it gets -1, and waits for nothing, so no two can deadlock. What is leased under it
-- must have a `started_at` of after this call (`clock_timestamp()`, not `now()`): on this the counts
-- rely. They leave a margin to `running_room`, by which the version before leases; both take the
-- same locks.
--
-- A count that read many pages or entries is kept for the next call. Beside an open snapshot that is
-- what ends the reading of the entries of ended requests. A clock that was set back is noticed by
-- counts from the future.

CREATE FUNCTION room_under_limit(of_kind text, of_name text, most integer, wanted integer)
RETURNS integer LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    many_pages CONSTANT integer := 8;
    many_entries CONSTANT integer := 200;
    margin CONSTANT interval := '0.2 s';
    keep_every CONSTANT interval := '1 s';
    entries CONSTANT oid := CASE of_kind WHEN 'tenant'
        THEN 'requests_running_of_tenant'::regclass
        ELSE 'requests_running_of_endpoint'::regclass END;
    known running_counts%ROWTYPE;
    is_known boolean;
    due boolean;
    at timestamptz;
    pages bigint;
    recent record;
    everything record;
    read_much boolean;
BEGIN
    IF NOT pg_try_advisory_xact_lock_shared(1818848628)
        OR NOT pg_try_advisory_xact_lock(1818848628, hashtext(of_kind || ' ' || of_name)) THEN
        RETURN -1;
    END IF;
    at := clock_timestamp();
    SELECT * INTO known FROM running_counts c WHERE c.kind = of_kind AND c.name = of_name;
    is_known := FOUND AND known.since <= at;
    read_much := FOUND AND NOT is_known;
    due := NOT is_known OR known.since < at - margin - keep_every;
    pages := pg_stat_get_xact_blocks_fetched('requests'::regclass)
        + pg_stat_get_xact_blocks_fetched(entries);
    IF is_known AND known.counted <= most - wanted THEN
        SELECT * INTO recent FROM count_running(
            of_kind, of_name, known.since, at, most - known.counted);
        IF recent.total <= most - known.counted - wanted AND (
            NOT due OR recent.total < many_entries
            AND pg_stat_get_xact_blocks_fetched('requests'::regclass)
                + pg_stat_get_xact_blocks_fetched(entries) - pages < many_pages) THEN
            RETURN most - known.counted - recent.total;
        END IF;
    END IF;
    SELECT * INTO everything FROM count_running(
        of_kind, of_name, CASE WHEN is_known THEN known.first ELSE '-infinity' END,
        at - margin, most);
    read_much := read_much OR everything.total >= many_entries
        OR pg_stat_get_xact_blocks_fetched('requests'::regclass)
            + pg_stat_get_xact_blocks_fetched(entries) - pages >= many_pages;
    IF read_much AND due THEN
        everything.first := least(everything.first, at - margin);
        -- Where the limit ended the count, it says only which one is the first.
        INSERT INTO running_counts AS c (kind, name, counted, since, first)
        SELECT of_kind, of_name,
               CASE WHEN everything.total < most THEN everything.before ELSE 0 END,
               CASE WHEN everything.total < most THEN at - margin ELSE everything.first END,
               everything.first
        ON CONFLICT (kind, name) DO UPDATE
        SET counted = excluded.counted, since = excluded.since, first = excluded.first;
    END IF;
    RETURN most - everything.total;
END
$$;
