"""Bodies are checked in linear time and have to arrive at a least rate."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvicorn

from serve_app.domain.errors import InvalidInput
from serve_app.ingress.http import body
from serve_app.ingress.http.body import MAX_DEPTH, parse, reject_unstorable
from tests.captured_logs import CapturedLogs
from tests.deployments.waiting import until
from tests.ingress.house import House

MIB = 1 << 20


def seconds(work: Callable[[], object]) -> float:
    """Seconds of the CPU: others pass while the machine does something else."""
    began = time.thread_time()
    with contextlib.suppress(InvalidInput):
        work()
    return time.thread_time() - began


def nested_json(size: int, depth: int) -> bytes:
    """A list below `depth` others, with many texts and the escape of a good pair at the end."""
    many = b'"a",' * (size // 4)
    return b"[" * depth + many + b'"\\ud83c\\udf08"' + b"]" * depth


@pytest.mark.variants(1)
@pytest.mark.parametrize(
    "raw",
    [
        b'{"a": "\\ud83c\\udf08' + b"x" * (4 * MIB) + b'"}',
        b'{"a": "\\u0041' + b"x" * (4 * MIB) + b'"}',
        nested_json(4 * MIB, MAX_DEPTH),
        b'{"a": [' + b"1.5," * MIB + b"1]}",
    ],
    ids=["text with a pair", "text with a letter", "many texts below many lists", "numbers"],
)
def test_a_check_takes_time_in_proportion_to_the_body(raw: bytes) -> None:
    parser_s = min(seconds(lambda: json.loads(raw)) for _ in range(3))
    assert min(seconds(lambda: parse(raw)) for _ in range(3)) < 20 * parser_s + 0.1


@pytest.mark.parametrize(("begin", "end"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_a_body_has_a_largest_depth_in_which_brackets_of_texts_do_not_count(
    begin: bytes, end: bytes
) -> None:
    parse(begin * MAX_DEPTH + b"1" + end * MAX_DEPTH)
    parse(b'{"a":[' + b'"[{",' * 1000 + b"1]}")
    for depth in (MAX_DEPTH + 1, 900):
        with pytest.raises(InvalidInput, match="nested too deeply"):
            parse(begin * depth + b"1" + end * depth)


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [{"b": "\0"}]}, ("body", "a", 0, "b")),
        ({"a": ["x", ["\ud800"]]}, ("body", "a", 1, 0)),
        ({"a": {"\udfff": 1}}, ("body", "a")),
        ({"a": [1.0, float("inf")]}, ("body", "a", 1)),
        ({"a": float("nan")}, ("body", "a")),
    ],
)
def test_the_place_of_what_cannot_be_stored_is_named(
    value: object, where: tuple[str | int, ...]
) -> None:
    with pytest.raises(InvalidInput) as raised:
        reject_unstorable(value, ("body",))
    assert raised.value.problems[0].loc == where


# Over a real socket.


@asynccontextmanager
async def serve_house(house: House) -> AsyncIterator[int]:
    """Serve the house at a port of loopback."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen()  # connections wait until the server accepts them
        config = uvicorn.Config(house.app, lifespan="off", log_config=None, access_log=False)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([bound]))
        try:
            yield bound.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


def head(house: House, length: int, path: str = "/test/probe") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Key {house.key}\r\n"
        "accept: application/json, text/event-stream\r\n"
        f"content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    ).encode()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "GRACE_S", 0.3)


@pytest.mark.parametrize(
    "path", ["/test/probe", "/cdn/files/upload", "/openai/v1/images/edits", "/mcp"]
)
@pytest.mark.usefixtures("quick")
async def test_a_body_that_stops_is_answered_with_408(house: House, path: str) -> None:
    async with serve_house(house) as port, asyncio.timeout(120):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        form = path.endswith("edits")
        begun = head(house, 1000, path)
        if form:
            begun = begun.replace(b"application/json", b"multipart/form-data; boundary=x")
        begun = begun.replace(
            b"\r\n\r\n", b"\r\naccept: application/json, text/event-stream\r\n\r\n"
        )
        writer.write(begun + b"{")
        answer = await reader.read()  # until the server closes the connection
        writer.close()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"too slowly" in answer


@pytest.mark.parametrize("path", ["/test/probe", "/mcp"])
async def test_a_client_that_disconnects_in_its_body_is_no_error_of_ours(
    house: House, path: str, caplog: CapturedLogs
) -> None:
    with caplog.at_level("INFO"):
        async with serve_house(house) as port, asyncio.timeout(120):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head(house, 1000, path) + b"{")
            await writer.drain()
            writer.close()
            await until(lambda: "disconnected while it was sending" in caplog.text)
    assert "Error handling POST request" not in caplog.text
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.usefixtures("quick")
async def test_a_body_in_drips_is_cut_and_one_at_the_least_rate_is_read(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sent(port: int, drip: bytes) -> bytes:
        content = b'{"echo": 1}' + b" " * 989
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head(house, len(content)))
        answer = asyncio.create_task(reader.readline())
        for start in range(0, len(content), len(drip)):
            if answer.done():
                break
            writer.write(content[start : start + len(drip)])
            await asyncio.sleep(0.1)
        writer.close()
        return await answer

    monkeypatch.setattr(body, "LEAST_BYTES_PER_S", 100)
    async with serve_house(house) as port, asyncio.timeout(60):
        fast, slow = await asyncio.gather(sent(port, b"x" * 100), sent(port, b"x"))
    assert fast.startswith(b"HTTP/1.1 200 ")
    assert slow.startswith(b"HTTP/1.1 408 ")


@pytest.mark.usefixtures("quick")
async def test_a_call_may_wait_for_its_result_as_long_as_it_takes(house: House) -> None:
    content = b'{"echo": 1, "sleep_s": 0.6}'
    async with serve_house(house) as port, asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head(house, len(content)) + content)
        answer = await reader.readline()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200 ")


EARLY = {
    "without a key": b"POST /queue/test/probe HTTP/1.1\r\nhost: h\r\n",
    "no such route": b"PUT /nowhere HTTP/1.1\r\nhost: h\r\n",
    "of a browser, before its call": b"OPTIONS /queue/test/probe HTTP/1.1\r\nhost: h\r\n",
    "to read": b"GET /readyz HTTP/1.1\r\nhost: h\r\n",
}
"""Calls that are answered before their body has come."""


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("begun", EARLY.values(), ids=EARLY)
async def test_who_goes_on_sending_after_an_early_response_is_cut_off(
    house: House, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(body, "LINGER_S", 0.1)
    async with serve_house(house) as port, asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begun + b"content-length: 1000000\r\n\r\n{")
        answer = asyncio.create_task(reader.read())  # until the server closes the connection
        while not answer.done():
            writer.write(b" ")
            await asyncio.sleep(0.05)
        writer.close()
        with contextlib.suppress(ConnectionResetError):
            assert b"connection: close" in await answer


@pytest.mark.parametrize("begun", EARLY.values(), ids=EARLY)
async def test_an_early_response_to_a_whole_body_leaves_the_connection_open(
    house: House, begun: bytes
) -> None:
    async with serve_house(house) as port, asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(begun + b"content-length: 2\r\n\r\n{}")
            head_of_answer = await reader.readuntil(b"\r\n\r\n")
            assert b"connection: close" not in head_of_answer
            length = re.search(rb"content-length: (\d+)", head_of_answer)
            await reader.readexactly(int(length[1]) if length else 0)
        writer.close()


async def test_a_refused_body_that_waits_to_be_asked_for_is_not_asked_for(house: House) -> None:
    async with serve_house(house) as port, asyncio.timeout(60):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        begun = EARLY["without a key"] + b"expect: 100-continue\r\n"
        writer.write(begun + b"content-length: 1000000\r\n\r\n")
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 401 ")
