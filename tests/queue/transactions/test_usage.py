"""Queries about past requests use their indexes, however many requests have ended."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from serve_app.domain.usage import EndedRequest, EndedRequestFilter
from serve_app.postgres.database import SESSION
from serve_app.queue.store.migrations import migrate
from serve_app.queue.transactions.usage import CONSUMED, ended_statement
from tests.queue.database import database_of_module

NOW = datetime(2026, 1, 31, tzinfo=UTC)
ENDED = """
INSERT INTO requests (id, tenant, endpoint, endpoint_digest, pool, priority, state, input,
    finished_at, outcome)
SELECT gen_random_uuid(), 't' || n % 4, 'a/b', '', 'studio', 1,
    CASE WHEN n % 50 = 0 THEN 'failed' ELSE 'succeeded' END, '{}',
    timestamptz '2026-01-31T00:00Z' - n * interval '1 second',
    '{"output":null,"artifacts":[],"failure":{"code":"pipeline_failed","field":null},"usage":{}}'
FROM generate_series(1, 20000) n
"""
COUNTED = """
INSERT INTO usage (request_id, tenant, endpoint, state, attempt, run_s, steps, units, at)
SELECT id, tenant, endpoint, state, 1, 1, 1, 1, finished_at FROM requests
"""
SEARCH = EndedRequestFilter("t0", "a/b", NOW - timedelta(days=1), NOW, client_codes=["cancelled"])
PARAMS: dict[str, Any] = {
    "tenant": "t0",
    "endpoint": "a/b",
    "since": NOW - timedelta(days=1),
    "until": NOW,
    "limit": 50,
    "client_codes": ["cancelled"],
    "edges": [NOW - timedelta(days=1), NOW],
    "all": True,
    "endpoints": [],
}


@pytest.fixture(scope="module")
def usage(server: str) -> Iterator[psycopg.Connection]:
    with database_of_module(server, "usage") as conninfo:
        asyncio.run(migrate(conninfo))
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(SESSION)
            connection.execute(ENDED)
            connection.execute(COUNTED)
            connection.execute("VACUUM ANALYZE requests, usage")
            yield connection


def plan(usage: psycopg.Connection, statement: str, **more: Any) -> str:
    names = set(re.findall(r"%\((\w+)\)s", statement))
    params = {name: value for name, value in {**PARAMS, **more}.items() if name in names}
    rows = usage.execute(f"EXPLAIN {statement}".encode(), params).fetchall()
    return "\n".join(line for (line,) in rows)


@pytest.mark.parametrize("before", [None, (NOW, "00000000-0000-0000-0000-000000000000")])
@pytest.mark.parametrize(
    ("end", "index"),
    [
        (None, "requests_ended"),
        (EndedRequest.SUCCESS, "requests_ended"),
        (EndedRequest.CLIENT_ERROR, "requests_unsuccessful"),
        (EndedRequest.SERVER_ERROR, "requests_unsuccessful"),
    ],
)
def test_a_page_of_ended_requests_is_read_off_an_index(
    usage: psycopg.Connection,
    end: EndedRequest | None,
    index: str,
    before: tuple[datetime, str] | None,
) -> None:
    search = EndedRequestFilter(
        "t0", "a/b", SEARCH.since, SEARCH.until, end, ["cancelled"], None, before
    )
    at, id_ = before or (None, None)
    found_plan = plan(usage, ended_statement(search), before_at=at, before_id=id_)
    assert f"using {index} on requests" in found_plan
    assert "Sort" not in found_plan


def test_usage_is_summed_from_an_index_alone(usage: psycopg.Connection) -> None:
    assert "Index Only Scan using usage_of_tenant_billed" in plan(usage, CONSUMED)
