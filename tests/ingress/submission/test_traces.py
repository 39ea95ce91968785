"""Every way in stores the trace of its call, and the answer carries it."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import httpx
import pytest

from serve_app.telemetry.logs import JsonFormatter
from tests.ingress.house import OTHERS, House, build_house
from tests.ingress.socket import connect
from tests.telemetry.collector import tracing_to_collector

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "a=1"}
STORED = " ".join(PARENT.values())

WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "fal run": ("/test/probe", {}),
    "fal submit": ("/queue/test/probe", {}),
    "fal stream": ("/run/test/probe/stream", {}),
    "OpenAI": ("/openai/v1/images/generations", {"model": "test/images", "prompt": "a red circle"}),
    "Replicate": ("/replicate/v1/models/test/probe/predictions", {"input": {}}),
}


def traces(house: House) -> list[str]:
    """Traces of the stored requests."""
    return [row.request.trace for row in house.queue._rows.values()]


@pytest.mark.parametrize("way", WAYS)
async def test_without_tracing_the_trace_of_the_client_goes_on(way: str) -> None:
    path, body = WAYS[way]
    async with build_house(catalog=OTHERS) as house, house.client() as client:
        answer = await client.post(path, json=body, headers=PARENT)
        assert answer.is_success
        assert traces(house) == [STORED]
        assert {name: answer.headers.get(name) for name in PARENT} == PARENT


@pytest.mark.parametrize("given", [{}, {"traceparent": "nonsense"}])
async def test_without_a_trace_nothing_is_stored_or_answered(
    house: House, client: httpx.AsyncClient, given: dict[str, str]
) -> None:
    answer = await client.post("/test/probe", json={}, headers=given)
    assert traces(house) == [""]
    assert "traceparent" not in answer.headers


async def test_a_realtime_session_is_in_the_trace_of_its_handshake(house: House) -> None:
    async with connect(house, headers=PARENT) as client:
        client.send(prompt="a red circle")
        await client.hear()
        assert traces(house) == [STORED]
        assert client.answered == PARENT


async def test_mcp_calls_are_in_the_trace_of_their_client() -> None:
    call = {"name": "generate", "arguments": {"model": "test/probe", "input": {}}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    accept = {"accept": "application/json, text/event-stream"}
    async with build_house(catalog=OTHERS) as house, house.client() as client:
        await client.post("/mcp", json=body, headers={**PARENT, **accept})
        assert traces(house) == [STORED]


async def test_with_tracing_the_span_of_the_call_is_stored_and_answered(
    house: House, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tracing_to_collector(monkeypatch) as traced:
        house.services.tracing = traced.tracing
        refused = await client.post("/queue/test/nothing", json={}, headers=PARENT)
        answer = await client.post("/test/probe", json={}, headers=PARENT)
        await client.get("/healthz", headers=PARENT)  # has none
        await traced.collector.until("POST fal.run")
    assert refused.status_code == 404
    run, submit = map(traced.collector.find_span, ("POST fal.run", "POST fal.submit"))
    assert traces(house) == [f"00-{TRACE}-{run.span_id}-01 a=1"]
    assert answer.headers["traceparent"] == f"00-{TRACE}-{run.span_id}-01"
    assert run.attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "darkroom.request_id": answer.headers["x-fal-request-id"],
    }
    assert submit.attributes["error.type"] == "endpoint_not_found"
    assert (submit.failed, run.failed) == (False, False)
    assert len(traced.collector.spans) == 2


async def test_json_log_lines_name_the_trace(
    house: House, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(house.queue, "submit", broken)
    stream = io.StringIO()
    log, handler = logging.getLogger("serve_app.ingress"), logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    log.addHandler(handler)
    try:
        await client.post("/test/probe", json={}, headers=PARENT)
    finally:
        log.removeHandler(handler)
    (line,) = [
        record for record in map(json.loads, stream.getvalue().splitlines()) if "error" in record
    ]
    assert (line["trace_id"], line["span_id"]) == (TRACE, SPAN)
