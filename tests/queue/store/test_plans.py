"""Plans made while the tables were empty are kept, so they must not read the whole queue or
history.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

import psycopg
import pytest

from serve_app.domain.request import State
from serve_app.postgres.database import SESSION
from serve_app.queue.drafts import SPACE
from serve_app.queue.fairness import fair_queue
from serve_app.queue.fallback.moves import WITHIN
from serve_app.queue.gallery import search
from serve_app.queue.overview import waiting_statement
from serve_app.queue.state.prefetch import FRONT
from serve_app.queue.state.stats import COUNT_LARGE
from serve_app.queue.store.migrations import migrate
from serve_app.queue.store.words import words_query
from serve_app.queue.transactions import garbage
from serve_app.queue.transactions.deletion import DUE_TENANTS, FIRST_ID, PAGE_SIZE, SEE_ENDS
from serve_app.queue.transactions.history import DAYS, page_statement
from serve_app.queue.transactions.usage import OPEN_SESSIONS
from tests.queue.database import buffers_read, database_of_module

QUEUED, IDLE_LANES, MAX_READ, FEW_READ = 5000, 50, 1000, 200
FILL = f"""
INSERT INTO requests (id, tenant, endpoint, endpoint_digest, pool, priority, state, input)
SELECT gen_random_uuid(), 'busy', 'noop', '0', 'pool', 1, 'queued', '{{}}'
FROM generate_series(1, {QUEUED})
"""
LANES = f"""
INSERT INTO fair_lanes (pool, tenant, active)
SELECT 'pool', 'tenant-' || n, false FROM generate_series(1, {IDLE_LANES}) n
"""
STATEMENTS = {
    "awake": fair_queue.SWEEP_AWAKE,
    "asleep": fair_queue.SWEEP_ASLEEP,
    "orphans": garbage.DUE,
    "large": COUNT_LARGE,
    "front": FRONT.replace("%(pools)s", "'{pool}'"),
}


@pytest.fixture
async def session(empty: str) -> AsyncIterator[psycopg.Connection]:
    """Session of a new installation: PostgreSQL has no statistics yet, and every statement was
    prepared and run.
    """
    await migrate(empty)
    with psycopg.connect(empty, autocommit=True) as connection:
        connection.execute(SESSION)
        for name, statement in STATEMENTS.items():
            connection.execute(f"PREPARE {name} AS {statement}".encode())
            connection.execute(f"EXECUTE {name}".encode())
        yield connection


@pytest.mark.parametrize("name", STATEMENTS)
def test_what_is_done_each_second_does_not_read_the_queue(
    session: psycopg.Connection, name: str
) -> None:
    session.execute(LANES.encode())
    session.execute(FILL.encode())
    if name == "front":  # it reads the first requests of lanes that are awake
        session.execute(b"INSERT INTO fair_lanes (pool, tenant) VALUES ('pool', 'busy')")
    plan = session.execute(f"EXPLAIN (ANALYZE, BUFFERS) EXECUTE {name}".encode()).fetchall()
    assert buffers_read([line for (line,) in plan]) < MAX_READ, plan


ENDED, RARE = 30_000, 7
HISTORY = f"""
INSERT INTO requests (
    id, tenant, endpoint, endpoint_digest, pool, priority, state, input, finished_at, outcome)
SELECT ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid,
       CASE WHEN n <= {RARE} THEN 'small' WHEN n % 2 = 0 THEN 'ann' ELSE 'busy' END,
       CASE WHEN n <= 2 * {RARE} THEN 'rare' ELSE 'noop' END, '0', 'pool', 1,
       CASE WHEN n % (2 * {RARE}) = 5 AND n <= 4 * {RARE} THEN 'failed' ELSE 'succeeded' END,
       '{{}}', now(), '{{}}'
FROM generate_series(1, {ENDED}) n
"""
"""The rows with rare values are the oldest: a plan that reads backwards reads all rows."""
WORDS = """
INSERT INTO request_words (tenant, request_id, words)
SELECT tenant, id, array_to_tsvector(ARRAY['@' || tenant, 'each']
    || CASE WHEN endpoint = 'rare' THEN ARRAY['few'] ELSE '{}' END)
FROM requests
"""
UNBOUNDED: Mapping[str, object] = {
    "endpoints": None,
    "states": list(State),
    "before": None,
    "first": None,
    "since": None,
    "until": None,
}
SMALL, ANN, BUSY, ALL = "small", "ann", "busy", None
PAGES: list[tuple[str | None, str | None, list[str]]] = [
    (ALL, None, list(State)),
    (ALL, "rare", list(State)),
    (ALL, "rare", ["succeeded"]),
    (ALL, "noop", list(State)),
    (ALL, None, ["failed"]),
    (ALL, "rare", ["failed"]),
    (BUSY, None, list(State)),
    (SMALL, None, list(State)),
    (ANN, "rare", list(State)),
    (BUSY, None, ["failed", "expired"]),
]


@pytest.mark.parametrize(("tenant", "endpoint", "states"), PAGES)
async def test_a_page_of_history_does_not_read_the_history(
    either: str, tenant: str | None, endpoint: str | None, states: list[str]
) -> None:
    statement = page_statement(
        of_tenant=tenant is not None,
        of_endpoint=endpoint is not None,
        unsuccessful="failed" in states and "queued" not in states,
    )
    params = UNBOUNDED | {
        "tenant": tenant,
        "endpoints": endpoint and [endpoint, "nothing"],
        "states": states,
        "limit": 5,
    }
    with psycopg.connect(either, autocommit=True) as connection:
        connection.execute(SESSION)
        plan = explain_prepared(connection, statement, params)
    assert buffers_read(plan) < MAX_READ, "\n".join(plan)


@pytest.mark.parametrize("words", ["each", "few", "nowhere"])
@pytest.mark.parametrize("statement", [search.WALK_WORDS, search.INDEXED], ids=["walk", "index"])
async def test_a_search_does_not_read_the_history(either: str, statement: str, words: str) -> None:
    params = UNBOUNDED | {
        "tenant": BUSY,
        "query": words_query(BUSY, words),
        "limit": 5,
        "walk": 20,
        "most": 20,
    }
    with psycopg.connect(either, autocommit=True) as connection:
        connection.execute(SESSION)
        plan = explain_prepared(connection, statement, params)
    assert buffers_read(plan) < MAX_READ, "\n".join(plan)


@pytest.mark.parametrize("statement", [search.WALK_FAVOURITES, search.WALK_FAVOURITES_WITH_WORDS])
async def test_a_search_among_favourites_reads_only_these(history: str, statement: str) -> None:
    params = UNBOUNDED | {
        "tenant": BUSY,
        "query": words_query(BUSY, "each"),
        "limit": 5,
        "walk": 20,
    }
    with psycopg.connect(history, autocommit=True) as connection:
        connection.execute(SESSION)
        connection.execute(
            "INSERT INTO favourites SELECT tenant, id FROM requests ON CONFLICT DO NOTHING"
        )
        plan = explain_prepared(connection, statement, params)
    assert buffers_read(plan) < MAX_READ, "\n".join(plan)


FEW = f"""
UPDATE requests SET tenant = 'small', endpoint = 'rare', priority = 2
WHERE place > {QUEUED - RARE}
"""


@pytest.mark.variants(1)
@pytest.mark.parametrize("learned", [False, True], ids=["new", "analyzed"])
@pytest.mark.parametrize(
    ("tenant", "endpoints"),
    [(ALL, None), (SMALL, None), (ALL, ["rare"]), (SMALL, ["rare", "nothing"]), (BUSY, ["rare"])],
)
async def test_what_waited_longest_is_found_without_reading_the_queue(
    empty: str, tenant: str | None, endpoints: Sequence[str] | None, learned: bool
) -> None:
    await migrate(empty)
    statement = waiting_statement(of_tenant=tenant is not None, of_endpoints=bool(endpoints))
    params = {"tenant": tenant, "endpoints": endpoints, "after": 0, "limit": 5}
    with psycopg.connect(empty, autocommit=True) as connection:
        connection.execute(SESSION)
        for command in (FILL, FEW, "VACUUM requests"):
            connection.execute(command.encode())
        if learned:
            connection.execute("ANALYZE requests")
        plan = explain_prepared(connection, statement, {**params, "priorities": [0, 1, 2, 3]})
    assert buffers_read(plan) < (MAX_READ if endpoints else FEW_READ), "\n".join(plan)


@pytest.mark.parametrize("learned", [False, True], ids=["new", "analyzed"])
async def test_what_waits_in_a_pool_is_grouped_without_reading_the_queue(
    empty: str, learned: bool
) -> None:
    await migrate(empty)
    with psycopg.connect(empty, autocommit=True) as connection:
        connection.execute(SESSION)
        for command in (FILL, FEW, "VACUUM requests"):
            connection.execute(command.encode())
        if learned:
            connection.execute("ANALYZE requests")
        plan = explain_prepared(connection, WITHIN, {"pools": ["pool"], "realtime": 3})
    assert buffers_read(plan) < FEW_READ, "\n".join(plan)


async def test_counts_by_day_read_an_index_alone(analyzed: str) -> None:
    params = {"tenant": BUSY, "first": [FIRST_ID], "last": [search.LAST_ID]}
    params |= {"endpoints": None, "states": ["succeeded", "failed"]}
    with psycopg.connect(analyzed, autocommit=True) as connection:
        connection.execute(SESSION)
        plan = explain_prepared(connection, DAYS, params)
    counted = [line for line in plan if "Index Only Scan using requests_history" in line]
    assert counted, "\n".join(plan)
    assert buffers_read(plan) < MAX_READ, "\n".join(plan)


async def test_a_look_for_requests_whose_files_are_limited_reads_only_these(history: str) -> None:
    with psycopg.connect(history, autocommit=True) as connection:
        connection.execute(SESSION)
        connection.execute(
            "INSERT INTO lifecycles (request_id, keep_s) SELECT id, 60 FROM requests LIMIT 100"
        )
        plan = explain_prepared(connection, SEE_ENDS, {"after": FIRST_ID, "most": PAGE_SIZE})
    assert buffers_read(plan) < 2 * MAX_READ, "\n".join(plan)


async def test_a_look_for_requests_to_delete_by_age_does_not_read_the_history(
    history: str,
) -> None:
    with psycopg.connect(history, autocommit=True) as connection:
        connection.execute(SESSION)
        plan = explain_prepared(connection, DUE_TENANTS, {"ages": "[]", "age_s": 0.0})
    assert buffers_read(plan) < MAX_READ, "\n".join(plan)


async def test_a_count_of_realtime_sessions_reads_neither_history_nor_queue(history: str) -> None:
    with psycopg.connect(history, autocommit=True) as connection:
        connection.execute(SESSION)
        connection.execute(FILL.encode())
        plan = explain_prepared(connection, OPEN_SESSIONS, {"tenant": BUSY, "pool": "pool"})
        connection.execute("DELETE FROM requests WHERE state = 'queued'")
    assert buffers_read(plan) < 20, "\n".join(plan)


async def test_a_look_at_the_space_of_drafts_reads_neither_history_nor_queue(history: str) -> None:
    with psycopg.connect(history, autocommit=True) as connection:
        connection.execute(SESSION)
        connection.execute(FILL.encode())
        plan = explain_prepared(connection, SPACE, {"tenant": BUSY, "endpoint": "noop"})
        connection.execute("DELETE FROM requests WHERE state = 'queued'")
    assert buffers_read(plan) < 20, "\n".join(plan)


def explain_prepared(
    connection: psycopg.Connection, statement: str, params: Mapping[str, object]
) -> Sequence[str]:
    """Plan of a statement, made without a look at its parameters."""
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))
    numbered = re.sub(r"%\((\w+)\)s", lambda match: f"${names.index(match[1]) + 1}", statement)
    connection.execute(f"PREPARE page AS {numbered}".encode())
    parameters = ", ".join(f"%({name})s" for name in names)
    with psycopg.ClientCursor(connection) as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS) EXECUTE page({parameters})".encode(), params)
        return [line for (line,) in cursor.fetchall()]


@pytest.fixture(scope="module")
def history(server: str) -> Iterator[str]:
    """A database that nobody has analyzed."""
    with database_of_module(server, "history") as conninfo:
        asyncio.run(migrate(conninfo))
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(HISTORY.encode())
            connection.execute(WORDS.encode())
            connection.execute("SELECT gin_clean_pending_list('request_words_found')")
        yield conninfo


@pytest.fixture(scope="module")
def analyzed(server: str, history: str) -> Iterator[str]:
    with database_of_module(server, "analyzed", template="history") as conninfo:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE requests, request_words")
        yield conninfo


@pytest.fixture(params=["new", "analyzed"])
def either(request: pytest.FixtureRequest, history: str, analyzed: str) -> str:
    return analyzed if request.param == "analyzed" else history
