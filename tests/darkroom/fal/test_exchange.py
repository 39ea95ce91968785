"""Calls of an ASGI application in this process, and health checks by them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from darkroom.fal.answers import failure_of, outputs_of
from darkroom.fal.exchange import Exchange, events
from darkroom.fal.health import HealthCheck
from darkroom.fal.local_files import LocalFiles


def answering(*parts: bytes, status: int = 200, raises: Exception | None = None) -> Any:
    """Application that answers with ``parts``."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert json.loads((await receive())["body"]) == {"a": 1}
        assert scope["query_string"] == b"b=2"
        await send({"type": "http.response.start", "status": status, "headers": []})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        if raises:
            raise raises

    return app


async def run_exchange(app: Any) -> tuple[Exchange, bytes]:
    exchange = Exchange(app, "/", {"a": 1}, {"b": 2}, {})
    await exchange.begin()
    return exchange, b"".join([part async for part in exchange.body()])


async def test_an_answer_has_its_status_and_its_body() -> None:
    exchange, content = await run_exchange(answering(b"x", b"y"))
    assert (exchange.status, content, exchange.error) == (200, b"xy", None)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (422, {"detail": [{"loc": ["body", "a", 0], "msg": "m", "type": "t"}]}, ("a.0", "m", "t")),
        (422, {"detail": [{"loc": ["query", "b"], "msg": "m"}]}, ("b", "m", "")),
        (400, {"detail": "No face."}, ("", "No face.", "")),
        (418, {"other": 1}, ("", '{"other": 1}', "")),
        (500, {"detail": "Internal Server Error"}, ("", "KeyError: 'x'", "")),
    ],
)
async def test_an_answer_with_an_error_says_what_and_where(
    status: int, body: Any, expected: tuple[str, str, str]
) -> None:
    raises = KeyError("x") if status == 500 else None
    exchange, content = await run_exchange(
        answering(json.dumps(body).encode(), status=status, raises=raises)
    )
    failure = failure_of(exchange, content)
    field, message, type_ = expected
    assert (failure.field, failure.type) == (field, type_)
    assert failure.message.startswith(message)
    assert failure.as_message()["kind"] == ("failed" if status == 500 else "invalid")


@pytest.mark.parametrize(("status", "retry"), [(503, True), (504, True), (501, False)])
async def test_only_some_statuses_are_tried_again(status: int, *, retry: bool) -> None:
    exchange, content = await run_exchange(answering(b"busy", status=status))
    assert failure_of(exchange, content).as_message() == {
        "kind": "failed",
        "message": "busy",
        "retry": retry,
    }


async def test_a_call_without_an_answer_is_a_failure() -> None:
    async def silent(scope: Any, receive: Any, send: Any) -> None:
        """Answer nothing."""

    exchange, content = await run_exchange(silent)
    assert failure_of(exchange, content).message == "The app ended the call without an answer."


async def test_a_client_that_leaves_is_seen_by_the_application() -> None:
    seen, began = list[str](), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((await receive())["type"])
        began.set()
        seen.append((await receive())["type"])
        await asyncio.Event().wait()

    exchange = Exchange(app, "/", {}, {}, {})
    beginning = asyncio.create_task(exchange.begin())
    async with asyncio.timeout(60):
        await began.wait()
        await exchange.leave(cancel=True)
        await beginning
    assert seen == ["http.request", "http.disconnect"]
    assert isinstance(exchange.error, asyncio.CancelledError)


async def test_an_application_whose_answer_is_not_read_any_more_ends() -> None:
    ended = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
        finally:
            ended.set()

    exchange = Exchange(app, "/", {}, {}, {})
    await exchange.begin()
    assert await anext(exchange.body()) == b"x"
    exchange.abandon()
    async with asyncio.timeout(60):
        await ended.wait()


async def test_events_are_read_however_they_are_cut() -> None:
    async def body() -> Any:
        for part in (b"data: on", b"e\r", b"\n\r\n: comment\n\nevent: x\ndata:two\ndata: 3\n\nda"):
            yield part
        yield b"ta: end"

    assert [event async for event in events(body())] == ["one", "two\n3", "end"]


@pytest.mark.parametrize(
    ("kind", "content", "expected"),
    [
        ("application/json", b'{"a": 1}', {"a": 1}),
        ("application/json; charset=utf-8", b"[1]", {"output": [1]}),
        ("application/json", b"[DONE]", {"output": "[DONE]"}),
        ("text/plain", b"hello", {"output": "hello"}),
        ("application/json", b"", {"output": None}),
    ],
)
def test_an_output_is_an_object(kind: str, content: bytes, expected: Any) -> None:
    assert outputs_of(kind, content, LocalFiles()) == expected


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([500, 200, 500, 500], "status 500, 2 times"),
        ([OSError("gone"), 404], "status 404, 2 times"),
        ([500, None], "no answer within 0.01 s, 2 times"),
    ],
)
async def test_an_app_that_fails_its_health_check_in_succession_is_reported(
    statuses: list[Any], expected: str
) -> None:
    left, reports = iter(statuses), list[str]()

    async def call() -> int:
        status = next(left)
        if status is None:
            await asyncio.Event().wait()
        if isinstance(status, Exception):
            raise status
        return status

    check = HealthCheck(call, reports.append, 0.01, failures=2, start_s=0, interval_s=0)
    async with asyncio.timeout(60):
        await check.run()
    assert reports == [expected]


async def test_failures_do_not_count_while_an_app_may_start() -> None:
    calls = 0

    async def call() -> int:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise asyncio.CancelledError
        return 500

    check = HealthCheck(call, pytest.fail, 60, failures=1, start_s=600, interval_s=0)
    with pytest.raises(asyncio.CancelledError):
        await check.run()
