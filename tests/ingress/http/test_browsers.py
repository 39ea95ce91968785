"""Headers that a page of another origin may send and read."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from tests.node import packages

ROOT = Path(__file__).parents[3]
DOCS = (ROOT / "docs" / "reference" / "fal-protocol.md").read_text()
CLIENT = ROOT / "tests" / "wire" / "javascript"
NAME = re.compile(r"(?:x-(?:app-)?fal|x-darkroom|idempotency)-[a-z-]*[a-z]", re.IGNORECASE)

ANSWERS = {
    "x-fal-request-id",
    "x-fal-request-timeout-type",
    "x-fal-retryable",
    "x-fal-error-type",
    "x-darkroom-replayed",
}
MESSAGES = {"x-fal-error", "x-fal-message"}
"""Types of messages of realtime sessions, which look like headers."""


def names(text: str) -> set[str]:
    return {name.lower() for name in NAME.findall(text)} - MESSAGES


async def allowed_headers(client: httpx.AsyncClient, asked: str = "") -> set[str]:
    headers = {"origin": "https://a.example", "access-control-request-method": "POST"}
    if asked:
        headers["access-control-request-headers"] = asked
    answer = await client.options("/queue/test/probe", headers=headers)
    assert answer.status_code == 204
    return set(answer.headers["access-control-allow-headers"].split(", "))


async def test_every_header_that_is_documented_may_be_sent_or_read(
    client: httpx.AsyncClient,
) -> None:
    documented = names(DOCS) - {"x-fal-", "x-app-fal-"}
    assert len(documented) >= 20
    answer = await client.get("/healthz")
    exposed = set(answer.headers["access-control-expose-headers"].split(", "))
    assert documented - await allowed_headers(client) - exposed == set()
    assert exposed >= ANSWERS


async def test_every_header_of_fal_s_javascript_client_may_be_sent(
    client: httpx.AsyncClient,
) -> None:
    packages(CLIENT)
    sources = (CLIENT / "node_modules" / "@fal-ai" / "client" / "src").glob("*.js")
    sent = set[str]().union(*(names(source.read_text()) for source in sources)) - ANSWERS
    assert sent >= {"x-fal-queue-priority", "x-fal-object-lifecycle-preference"}
    assert sent - await allowed_headers(client) == set()


@pytest.mark.parametrize("name", ["x-fal-no-retry", "x-fal-retry-config", "x-fal-of-tomorrow"])
async def test_what_a_page_asks_for_it_may_send(client: httpx.AsyncClient, name: str) -> None:
    assert await allowed_headers(client, name) == {name}
