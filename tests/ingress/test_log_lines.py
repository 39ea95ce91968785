"""Log lines of the ingress name the request, its tenant and its endpoint, where they are known."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from serve_app.telemetry.logs import JsonFormatter
from tests.ingress.house import House


@pytest.fixture
def log_stream() -> Iterator[io.StringIO]:
    """The log of the ingress, as JSON lines."""
    stream = io.StringIO()
    log, handler = logging.getLogger("serve_app.ingress"), logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    log.addHandler(handler)
    yield stream
    log.removeHandler(handler)


def errors(written: io.StringIO) -> list[dict[str, Any]]:
    """The lines with a traceback."""
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    return [line for line in lines if "error" in line]


async def raise_error(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError


@pytest.mark.parametrize("path", ["/test/probe", "/queue/test/probe"])
async def test_a_defect_at_a_submit_is_logged_with_its_tenant_and_endpoint(
    idle: House,
    idle_client: httpx.AsyncClient,
    log_stream: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
) -> None:
    monkeypatch.setattr(idle.queue, "submit", raise_error)
    reply = await idle_client.post(path, json={})
    assert reply.status_code == 500
    (line,) = errors(log_stream)
    assert line["request_id"] == reply.headers["x-fal-request-id"]
    assert (line["tenant"], line["endpoint"]) == ("default", "test/probe")
    assert line["error"].endswith("ZeroDivisionError")


async def test_a_defect_at_a_call_about_a_request_is_logged_with_that_request(
    idle: House,
    idle_client: httpx.AsyncClient,
    log_stream: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    submitted = (await idle_client.post("/queue/test/probe", json={})).json()
    monkeypatch.setattr(idle.queue, "cancel", raise_error)
    reply = await idle_client.put(submitted["cancel_url"])
    assert reply.status_code == 500
    (line,) = errors(log_stream)
    about = (line["request_id"], line["tenant"], line["endpoint"])
    assert about == (submitted["request_id"], "default", "test/probe")


async def test_a_defect_before_a_request_is_known_is_logged_with_the_tenant_alone(
    idle: House,
    idle_client: httpx.AsyncClient,
    log_stream: io.StringIO,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(idle.queue.operations, "overview", raise_error)
    reply = await idle_client.get("/v1/queue")
    assert reply.status_code == 500
    (line,) = errors(log_stream)
    assert line["request_id"] == reply.headers["x-fal-request-id"]
    assert line["tenant"] == "default"
    assert "endpoint" not in line
