"""Lines over TCP: nothing is unpickled before both ends have proved that they know the key."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from deployments.ingress_client.local import connect_remote
from serve_app.domain import serialization
from serve_app.domain.lease import Presence, ReplicaStage
from serve_app.domain.serialization import NONCE_BYTES, PROOF_BYTES
from serve_app.ingress.local_rpc import LocalRpcServer
from tests.fakes.lease_port import FakeLeasePort

PRESENCE = Presence("r1", "actor", "pool", ReplicaStage.STARTING)


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


async def close_writer(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


@pytest.fixture
async def port() -> FakeLeasePort:
    return FakeLeasePort()


@pytest.fixture
async def server(port: FakeLeasePort, tmp_path: Path) -> AsyncIterator[LocalRpcServer]:
    server = LocalRpcServer(port, tmp_path / "lines", "127.0.0.1")
    await server.start()
    yield server
    await server.aclose()


def remote(server: LocalRpcServer) -> tuple[str, int, bytes]:
    address = server.remote
    assert address is not None
    return address


async def test_who_proves_the_key_calls_the_ingress(
    server: LocalRpcServer, port: FakeLeasePort
) -> None:
    client = await connect_remote(*remote(server))
    await client.call("announce", PRESENCE)
    assert port.presences == [PRESENCE]
    client.close()


async def test_who_has_another_key_is_cut_off(server: LocalRpcServer) -> None:
    host, number, _ = remote(server)
    with pytest.raises(OSError, match="has not proved"):
        await connect_remote(host, number, b"another")


@pytest.mark.parametrize("mirrors", [False, True], ids=["noise", "reflection"])
async def test_nothing_is_unpickled_without_a_proof(
    server: LocalRpcServer, tmp_path: Path, mirrors: bool
) -> None:
    """Neither after noise, nor after the server's own proof, sent back to it."""
    host, number, _ = remote(server)
    reader, writer = await asyncio.open_connection(host, number)
    async with asyncio.timeout(120):
        nonce = await reader.readexactly(NONCE_BYTES)
        writer.write(nonce if mirrors else b"n" * NONCE_BYTES)
        proof = await reader.readexactly(PROOF_BYTES)
        body = pickle.dumps(Touch(tmp_path / "touched"))
        frame = struct.pack("<I", len(body)) + body
        writer.write((proof if mirrors else b"p" * PROOF_BYTES) + frame)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(1)
    await close_writer(writer)
    assert not (tmp_path / "touched").exists()


async def test_a_server_that_does_not_know_the_key_gets_no_call(tmp_path: Path) -> None:
    body, ended = pickle.dumps(Touch(tmp_path / "touched")), asyncio.Event()

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frame = struct.pack("<I", len(body)) + body
        writer.write(b"n" * NONCE_BYTES + b"p" * PROOF_BYTES + frame)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        ended.set()

    impostor = await asyncio.start_server(pretend, "127.0.0.1", 0)
    async with impostor:
        number = impostor.sockets[0].getsockname()[1]
        with pytest.raises(OSError, match="has not proved"):
            await connect_remote("127.0.0.1", number, b"key")
        await ended.wait()
    assert not (tmp_path / "touched").exists()


async def test_who_says_nothing_is_cut_off(
    server: LocalRpcServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serialization, "HANDSHAKE_S", 0.05)
    host, number, _ = remote(server)
    reader, writer = await asyncio.open_connection(host, number)
    async with asyncio.timeout(120):
        await reader.readexactly(NONCE_BYTES)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(1)
    await close_writer(writer)


async def test_a_machine_that_no_other_reaches_opens_no_port(
    port: FakeLeasePort, tmp_path: Path
) -> None:
    server = LocalRpcServer(port, tmp_path / "lines")
    await server.start()
    assert server.path
    assert server.remote is None
    await server.aclose()


async def test_an_address_that_is_not_this_machine_s_leaves_replicas_their_handle(
    port: FakeLeasePort, tmp_path: Path
) -> None:
    server = LocalRpcServer(port, tmp_path / "lines", "192.0.2.1")
    await server.start()
    assert server.remote is None
    await server.aclose()
