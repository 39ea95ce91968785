"""Proxy port: which tunnels it opens, which it refuses, and that it closes all of them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.domain.errors import Unavailable
from serve_app.domain.name_resolution import NameResolver
from serve_app.free_ports import free_ports
from serve_app.gateway import connect_proxy
from serve_app.gateway.connect_proxy import ConnectProxy, parse
from serve_app.gateway.network_proxy import TunnelRefused
from serve_app.gateway.proxy_thread import ProxyThread

LOOPBACK = "127.0.0.1"
OUTSIDE = "93.184.215.14"
KEY = "id:secret"


async def admits(key: str) -> bool:
    return key == KEY


async def _no_names(host: str, port: int) -> Sequence[str]:
    raise OSError(f"{host}:{port} is not to be looked up")


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while block := await reader.read(1000):
        writer.write(block.upper())
        await writer.drain()
    writer.write(b"END")


@asynccontextmanager
async def echo() -> AsyncIterator[tuple[str, int]]:
    """Echo server that answers in upper case, and with END at the end of the stream."""
    calls: set[asyncio.Task[None]] = set()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = asyncio.create_task(_echo(reader, writer))
        calls.add(call)
        call.add_done_callback(lambda _: writer.close())

    server = await asyncio.start_server(accepted, LOOPBACK, 0)
    yield (LOOPBACK, server.sockets[0].getsockname()[1])
    server.close()
    await asyncio.gather(*calls, return_exceptions=True)


@asynccontextmanager
async def proxy(fal_at: tuple[str, int] | None = None, **more: Any) -> AsyncIterator[ConnectProxy]:
    more = {"admits": admits, "resolve": _no_names} | more
    running = ConnectProxy((LOOPBACK, 0), fal_at, **more)
    await running.start()
    try:
        yield running
    finally:
        await running.aclose()


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, target: str, *headers: str, method: str = "CONNECT") -> tuple[int, str]:
        """Status and reason; a refusal is read to its end."""
        head = "\r\n".join((f"{method} {target} HTTP/1.1", *headers, "", ""))
        self.writer.write(head.encode())
        answer = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        status = int(answer.split()[1])
        return status, answer if status == 200 else answer + (await self.reader.read()).decode()


@asynccontextmanager
async def client(of: ConnectProxy) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection(LOOPBACK, of.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.mark.parametrize("name", ["fal.run", "queue.fal.run", "REST.fal.ai", "v3.fal.media."])
async def test_fal_s_names_end_at_our_tls_port(name: str) -> None:
    async with echo() as here, proxy(here) as running, client(running) as caller:
        assert (await caller.ask(f"{name}:443"))[0] == 200
        caller.writer.write(b"hello")
        assert await caller.reader.readexactly(5) == b"HELLO"
        caller.writer.write_eof()
        assert await caller.reader.read() == b"END", (
            "one side's end is passed on, not made the other's"
        )


HEAD = b"CONNECT fal.run:443 HTTP/1.1\r\nhost: fal.run:443\r\n\r\n"


async def _answer_in_pieces(of: ConnectProxy, pieces: Sequence[bytes], pause_s: float = 0) -> bytes:
    """What comes back in the tunnel, to its end. The proxy's answer is not waited for."""
    async with client(of) as caller:
        for piece in pieces:
            caller.writer.write(piece)
            await asyncio.sleep(pause_s)
        caller.writer.write_eof()
        assert b" 200 " in await caller.reader.readuntil(b"\r\n\r\n")
        return await caller.reader.read()


@pytest.mark.parametrize("pause_s", [0, 0.002])
@pytest.mark.parametrize("cut", [*range(len(HEAD) - 5, len(HEAD) + 6), None])
async def test_first_bytes_are_passed_on_wherever_they_are_cut(
    cut: int | None, pause_s: float
) -> None:
    sent = HEAD + b"hello"
    pieces = [bytes([byte]) for byte in sent] if cut is None else [sent[:cut], sent[cut:]]
    async with echo() as here, proxy(here) as running:
        assert await _answer_in_pieces(running, pieces, pause_s) == b"HELLOEND"


async def test_many_tunnels_at_once_lose_nothing() -> None:
    def pieces(number: int) -> list[bytes]:
        sent = HEAD + f"tunnel {number} ".encode() * 10_000  # more than buffers hold
        cut = len(HEAD) + number % 7 - 3
        return [sent[:cut], sent[cut : cut + number], sent[cut + number :]]

    async with echo() as here, proxy(here) as running:
        came = await asyncio.gather(*(_answer_in_pieces(running, pieces(n)) for n in range(150)))
    assert [
        content == f"TUNNEL {n} ".encode() * 10_000 + b"END" for n, content in enumerate(came)
    ] == ([True] * 150)


async def test_fal_s_names_are_never_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxy(None) as running, client(running) as caller:
        status, reply = await caller.ask("fal.run:443")
    assert (status, "has no TLS port" in reply) == (403, True)
    async with echo() as here, proxy(here) as running, client(running) as caller:
        assert (await caller.ask("fal.run:8443"))[0] == 403
    async with echo() as gone:
        pass
    async with proxy(gone) as running, client(running) as caller:
        assert (await caller.ask("api.fal.ai:443"))[0] == 502


async def test_other_names_are_passed_on_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    connections: list[tuple[str, int]] = []
    reached: list[tuple[str, int]] = []

    async def names(host: str, port: int) -> Sequence[str]:
        connections.append((host, port))
        return [OUTSIDE]

    async with echo() as here:

        async def connected(host: str, port: int) -> connect_proxy.Streams:
            reached.append((host, port))
            return await asyncio.open_connection(*here)

        monkeypatch.setattr(connect_proxy, "_connect", connected)
        async with proxy(resolve=names) as running, client(running) as caller:
            assert (await caller.ask("pypi.example.org:443"))[0] == 200
            caller.writer.write(b"x" * 300_000)
            assert await caller.reader.readexactly(300_000) == b"X" * 300_000
    assert connections == [("pypi.example.org", 443)]
    assert reached == [(OUTSIDE, 443)], "the address that was checked, not the name anew"


@asynccontextmanager
async def network_proxy(reply: str) -> AsyncIterator[tuple[str, list[str]]]:
    """A company's proxy, by its URL, and the heads of what it was asked. Answers ``reply``, and
    then in upper case."""
    heads: list[str] = []
    calls: list[asyncio.Task[None]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(f"HTTP/1.1 {reply}\r\n\r\n".encode())
        await _echo(reader, writer)

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(asyncio.create_task(answer(reader, writer)))
        calls[-1].add_done_callback(lambda _: writer.close())

    server = await asyncio.start_server(accepted, LOOPBACK, 0)
    yield f"http://me:p%40ss@{LOOPBACK}:{server.sockets[0].getsockname()[1]}", heads
    server.close()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_other_names_go_through_the_proxy_of_the_user_s_network() -> None:
    async with network_proxy("200 OK") as (url, heads):
        proxies = {"https": url, "no": "intranet.example.org"}
        async with proxy(proxies=proxies) as running:
            async with client(running) as caller:
                assert (await caller.ask("pypi.example.org:443"))[0] == 200
                caller.writer.write(b"hello")
                assert await caller.reader.readexactly(5) == b"HELLO"
            async with client(running) as caller:
                assert (await caller.ask("intranet.example.org:443"))[0] == 502, "looked up itself"
    (head,) = heads
    line, *fields, _, _ = head.split("\r\n")
    assert line == "CONNECT pypi.example.org:443 HTTP/1.1"
    assert f"Proxy-Authorization: Basic {base64.b64encode(b'me:p@ss').decode()}" in fields


async def test_a_refusal_of_the_network_s_proxy_is_told() -> None:
    async with network_proxy("407 Who are you?") as (url, _):
        async with proxy(proxies={"https": url}) as running, client(running) as caller:
            status, reply = await caller.ask("pypi.example.org:443")
    assert (status, "answers 407 for pypi.example.org:443" in reply) == (502, True)
    async with proxy(proxies={"https": url}) as running, client(running) as caller:
        status, reply = await caller.ask("pypi.example.org:443")
    assert (status, "does not answer" in reply) == (502, True)
    async with proxy(proxies={"https": "http://here:port"}) as running, client(running) as caller:
        status, reply = await caller.ask("pypi.example.org:443")
    assert (status, "HTTPS_PROXY" in reply) == (502, True)


async def test_clients_on_other_machines_do_not_use_the_proxy_of_the_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connect_proxy, "_on_this_machine", lambda _: False)
    key = base64.b64encode(KEY.encode()).decode()
    async with network_proxy("200 OK") as (url, heads):
        async with proxy(proxies={"https": url}) as running, client(running) as caller:
            target = "pypi.example.org:443"
            status, _ = await caller.ask(target, f"Proxy-Authorization: Basic {key}")
    assert (status, heads) == (502, [])


async def test_a_proxy_that_was_started_in_its_own_shell_does_not_call_itself() -> None:
    port = free_ports(1)[0]
    itself = {"https": f"http://{LOOPBACK}:{port}"}
    running = ConnectProxy((LOOPBACK, port), None, admits, _no_names, proxies=itself)
    await running.start()
    try:
        async with client(running) as caller:
            status, reply = await caller.ask("pypi.example.org:443")
        assert (status, "is not known" in reply) == (502, True), "it looked the name up itself"
    finally:
        await running.aclose()


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.0.0.1"],
        ["169.254.169.254"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        [OUTSIDE, "192.168.0.1"],
    ],
)
async def test_private_addresses_are_refused(addresses: list[str]) -> None:
    async def names(host: str, port: int) -> Sequence[str]:
        return addresses

    async with proxy(resolve=names) as running, client(running) as caller:
        status, reply = await caller.ask("inside.example.org:443")
    assert (status, "private" in reply) == (403, True)


@pytest.mark.parametrize("target", ["127.0.0.1:443", "[::1]:443", "localhost:8443", "0.0.0.0:443"])
async def test_addresses_of_this_machine_are_refused_as_they_stand(target: str) -> None:
    async with proxy(resolve=NameResolver()) as running, client(running) as caller:
        assert (await caller.ask(target))[0] == 403


async def test_ports_of_other_services_are_refused() -> None:
    async with proxy() as running:
        for port in (25, 22, 80):
            async with client(running) as caller:
                assert (await caller.ask(f"example.org:{port}"))[0] == 403


async def test_a_name_without_addresses_is_not_connected_to() -> None:
    async def names(host: str, port: int) -> Sequence[str]:
        return []

    async with proxy(resolve=names) as running, client(running) as caller:
        status, reply = await caller.ask("empty.example.org:443")
    assert (status, "empty.example.org is not known" in reply) == (502, True)


async def test_a_name_that_is_not_there_is_reported() -> None:
    async with proxy() as running, client(running) as caller:
        status, reply = await caller.ask("nowhere.example.org:443")
    assert (status, "nowhere.example.org is not known" in reply) == (502, True)


async def test_callers_from_elsewhere_need_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect_proxy, "_on_this_machine", lambda _: False)
    good = base64.b64encode(KEY.encode()).decode()
    bad = base64.b64encode(b"id:wrong").decode()
    async with echo() as here, proxy(here) as running:
        wrong = [f"Proxy-Authorization: Basic {text}" for text in (bad, "%", "é", "/w==")]
        for header in ("x: y", *wrong):
            async with client(running) as caller:
                status, reply = await caller.ask("fal.run:443", header)
            assert (status, "proxy-authenticate: Basic" in reply) == (407, True)
        async with client(running) as caller:
            assert (await caller.ask("fal.run:443", f"proxy-authorization: basic {good}"))[0] == 200


async def test_an_open_tunnel_ends_with_its_key_and_not_while_nothing_can_be_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connect_proxy, "_on_this_machine", lambda _: False)
    monkeypatch.setattr(connect_proxy, "CHECK_S", 0.01)
    answers: list[bool | Unavailable] = [True, Unavailable("Darkroom does not answer.")]
    checked = asyncio.Event()

    async def may(key: str) -> bool:
        answer = answers[0] if len(answers) == 1 else answers.pop(0)
        if isinstance(answer, Unavailable):
            checked.set()
            raise answer
        return answer

    credentials = f"Proxy-Authorization: Basic {base64.b64encode(KEY.encode()).decode()}"
    async with echo() as here, proxy(here, admits=may) as running:
        async with client(running) as caller:
            assert (await caller.ask("fal.run:443", credentials))[0] == 200
            await checked.wait()
            caller.writer.write(b"hello")
            assert await caller.reader.readexactly(5) == b"HELLO"
            async with client(running) as other:
                status, why = await other.ask("fal.run:443", credentials)
            assert (status, "does not answer" in why) == (503, True)
            answers[:] = [False]
            async with asyncio.timeout(60):
                assert await caller.reader.read() == b""


@pytest.mark.parametrize(
    ("peer", "here"),
    [("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.9", True), ("192.168.1.1", False)],
)
def test_who_is_on_this_machine(peer: str, here: bool) -> None:
    assert connect_proxy._on_this_machine(peer) == here


async def test_more_tunnels_than_there_may_be_are_refused() -> None:
    async with echo() as here, proxy(here, max_tunnels=1) as running:
        async with client(running) as first:
            assert (await first.ask("fal.run:443"))[0] == 200
            async with client(running) as second:
                assert (await second.ask("fal.run:443"))[0] == 503
            first.writer.write_eof()
            assert await first.reader.read() == b"END"
        await asyncio.gather(*running._calls)
        async with client(running) as third:
            assert (await third.ask("fal.run:443"))[0] == 200


async def test_a_silent_client_and_a_silent_tunnel_are_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connect_proxy, "HEAD_S", 0.05)
    monkeypatch.setattr(connect_proxy, "IDLE_S", 0.05)
    async with echo() as here, proxy(here) as running:
        async with client(running) as silent:
            assert b" 408 " in await silent.reader.read()
        monkeypatch.setattr(connect_proxy, "HEAD_S", 60.0)
        async with client(running) as idle:
            assert (await idle.ask("fal.run:443"))[0] == 200
            assert await idle.reader.read() == b""


async def test_a_head_without_end_is_refused() -> None:
    async with proxy() as running, client(running) as caller:
        status, _ = await caller.ask("fal.run:443", "x: " + "y" * 70_000)
    assert status == 431


async def test_only_https_is_proxied() -> None:
    async with proxy() as running, client(running) as caller:
        status, reply = await caller.ask("http://example.org/", method="GET")
    assert (status, "HTTPS_PROXY" in reply) == (405, True)


async def test_the_end_ends_every_tunnel() -> None:
    async with echo() as here:
        async with proxy(here) as running:
            reader, writer = await asyncio.open_connection(LOOPBACK, running.port)
            assert (await Client(reader, writer).ask("fal.run:443"))[0] == 200
        assert await reader.read() == b""
        writer.close()


def test_the_end_ends_a_call_that_has_just_come() -> None:
    for _ in range(20):
        (port,) = free_ports(1)
        thread = ProxyThread((LOOPBACK, port), None, admits)
        thread.start()
        with socket.create_connection((LOOPBACK, port), 5) as caller:
            thread.aclose()
            with contextlib.suppress(ConnectionResetError):
                assert caller.recv(1) == b""
    gc.collect()  # objects that were left open raise a warning


@given(st.binary(max_size=200))
def test_any_head_is_a_call_or_refused(head: bytes) -> None:
    with contextlib.suppress(TunnelRefused):
        call = parse(head)
        assert call.host
        assert 0 < call.port < 65536


@given(st.from_regex(r"[A-Za-z0-9._\-\[\]:]{1,40}", fullmatch=True))
def test_any_target_is_a_host_and_a_port_or_refused(target: str) -> None:
    with contextlib.suppress(TunnelRefused):
        call = parse(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
        assert int(target.rpartition(":")[2]) == call.port
