"""Lease port over a line, by Unix socket and by TCP: real sockets, and lost connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from deployments.ingress_client.local import LocalClient, LocalLeasePort, RemoteLine
from serve_app.domain.endpoint import Endpoint, Weights
from serve_app.domain.errors import DarkroomError, DatabaseUnavailable, Unavailable
from serve_app.domain.lease import (
    Ask,
    Finish,
    Lease,
    LeaseKey,
    Presence,
    ReplicaStage,
    Report,
    ReportReply,
    Verdict,
    Work,
)
from serve_app.domain.outcome import Outcome
from serve_app.domain.progress import StoredSnapshot
from serve_app.domain.request import Priority
from serve_app.ingress import local_rpc as lines_module
from serve_app.ingress.local_rpc import LocalRpcServer
from serve_app.telemetry.logs import request_id
from tests.fakes.lease_port import FakeLeasePort

HELD = LeaseKey("a-request", 1)
PRESENCE = Presence("r1", "actor", "pool", ReplicaStage.STARTING)
ASK = Ask("r1", "actor", "pool", 1)
FINISH = Finish(HELD, "r1", Outcome(output={"n": 1}))


class Broken(FakeLeasePort):
    """Port whose finish, report and hand-back raise."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def finish(self, finish: Finish) -> Verdict:
        del finish
        raise self.error

    async def report(self, report: Report) -> ReportReply:
        del report
        raise self.error

    async def hand_back(
        self,
        lease_key: LeaseKey,
        replica_id: str,
        reason: str,
        snapshot: StoredSnapshot | None = None,
    ) -> Verdict:
        del lease_key, replica_id, reason, snapshot
        raise self.error


@dataclass
class House:
    """Two ports: one behind the local connections, one behind the handle."""

    directory: Path
    remote: bool = False  # replicas are on another machine
    at_line: FakeLeasePort = field(default_factory=FakeLeasePort)
    at_handle: FakeLeasePort = field(default_factory=FakeLeasePort)
    lines: list[LocalRpcServer] = field(default_factory=list)
    ports: list[LocalLeasePort] = field(default_factory=list)
    reported: list[str] = field(default_factory=list)

    async def where(self) -> str:
        path = self.lines[-1].path if self.lines else ""
        self.reported.append(f"{path}.elsewhere" if self.remote else path)
        return self.reported[-1]

    async def where_for_others(self) -> RemoteLine | None:
        return self.lines[-1].remote if self.lines else None

    async def open(self, port: FakeLeasePort | None = None) -> LocalRpcServer:
        host = "127.0.0.1" if self.remote else ""
        lines = LocalRpcServer(port or self.at_line, self.directory, host)
        await lines.start()
        self.lines.append(lines)
        return lines

    def port(self, reconnect_s: float = 0.02) -> LocalLeasePort:
        self.ports.append(
            LocalLeasePort(self.at_handle, self.where, reconnect_s, self.where_for_others)
        )
        return self.ports[-1]

    async def connect(self) -> LocalLeasePort:
        port = self.port()
        await self.until_at_line(port)
        return port

    async def until_at_line(self, port: LocalLeasePort) -> None:
        """Wait for the local connection; calls use the handle until then."""
        before = len(self.at_line.presences)
        async with asyncio.timeout(120):
            while len(self.at_line.presences) == before:
                await port.announce(PRESENCE)
                await asyncio.sleep(0)  # the fake answers without suspending

    async def aclose(self) -> None:
        for port in self.ports:
            await port.aclose()
        for lines in self.lines:
            await lines.aclose()


@pytest.fixture(params=[False, True], ids=["socket", "port"])
async def house(request: pytest.FixtureRequest) -> AsyncIterator[House]:
    with TemporaryDirectory(prefix="dk") as directory:
        house = House(Path(directory) / "lines", request.param)
        yield house
        await house.aclose()


async def test_calls_go_over_the_line(house: House) -> None:
    await house.open()
    port = await house.connect()
    lease = Lease(
        "a-request",
        1,
        5.0,
        Endpoint("e", "f", Weights("w"), "s"),
        {"p": 1},
        (),
        Priority.NORMAL,
    )
    asking = asyncio.create_task(port.ask(ASK))
    await house.at_line.until(lambda: house.at_line.outstanding)
    house.at_line.offer(lease)
    assert await asking == Work(leases=(lease,))
    house.at_line.cancelled.add(HELD)
    assert await port.report(Report("r1", (HELD,))) == ReportReply(cancelled=(HELD,))
    assert await port.finish(FINISH) is Verdict.ACCEPTED
    assert await port.hand_back(HELD, "r1", "why") is Verdict.ACCEPTED
    assert house.at_line.finishes == [FINISH]
    assert house.at_line.hand_backs == [(HELD, "r1", "why")]
    assert not house.at_handle.asks


async def test_without_a_line_calls_go_over_the_handle(house: House) -> None:
    port = house.port()
    assert await port.finish(FINISH) is Verdict.ACCEPTED
    assert house.at_handle.finishes == [FINISH]


async def test_a_socket_of_another_machine_is_no_line(house: House) -> None:
    await house.open()
    (house.directory / "elsewhere").mkdir()

    asked_again = asyncio.Event()

    async def elsewhere() -> str:
        house.reported.append("")
        if len(house.reported) == 3:
            asked_again.set()
        return str(house.directory / "elsewhere" / "socket")

    port = LocalLeasePort(house.at_handle, elsewhere, reconnect_s=0.01)
    house.ports.append(port)
    await port.announce(PRESENCE)
    async with asyncio.timeout(120):
        await asked_again.wait()
    await port.announce(PRESENCE)
    assert len(house.at_handle.presences) == 2


async def test_many_calls_at_once_get_each_its_own_answer(house: House) -> None:
    await house.open()
    port = await house.connect()
    house.at_line.fenced = {LeaseKey(f"r{n}", 1) for n in range(0, 200, 3)}
    finishes = [Finish(LeaseKey(f"r{n}", 1), "r1", Outcome(output={"n": n})) for n in range(200)]
    verdicts = await asyncio.gather(*(port.finish(finish) for finish in finishes))
    assert [verdict is Verdict.FENCED for verdict in verdicts] == [n % 3 == 0 for n in range(200)]


async def test_what_is_large_comes_whole(house: House) -> None:
    await house.open()
    port = await house.connect()
    finish = Finish(HELD, "r1", Outcome(output={"text": "x" * 3_000_000}))
    await port.finish(finish)
    assert house.at_line.finishes == [finish]


async def test_an_error_of_darkrooms_comes_as_itself_and_any_other_in_words(house: House) -> None:
    broken = Broken(DatabaseUnavailable("PostgreSQL is away."))
    house.at_line = broken
    await house.open()
    port = await house.connect()
    with pytest.raises(DatabaseUnavailable, match="is away"):
        await port.finish(FINISH)
    broken.error = ZeroDivisionError("by nothing")
    with pytest.raises(DarkroomError, match="ZeroDivisionError: by nothing"):
        await port.finish(FINISH)


async def test_a_call_that_fails_is_logged_with_its_request(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[str | None] = []
    monkeypatch.setattr(lines_module.log, "exception", lambda *_: reported.append(request_id.get()))
    house.at_line = Broken(ZeroDivisionError())
    await house.open()
    port = await house.connect()
    for call in (
        port.finish(FINISH),
        port.report(Report("r1", (HELD,))),
        port.hand_back(HELD, "r1", "why"),
        port.report(Report("r1", (HELD, LeaseKey("another", 1)))),
    ):
        with pytest.raises(DarkroomError):
            await call
    assert reported == [HELD.request_id] * 3 + [None]


async def test_a_cancelled_ask_is_cancelled_at_the_ingress(house: House) -> None:
    await house.open()
    port = await house.connect()
    asking = asyncio.create_task(port.ask(ASK))
    await house.at_line.until(lambda: house.at_line.outstanding)
    asking.cancel()
    await house.at_line.until(lambda: not house.at_line.outstanding)
    assert await port.finish(FINISH) is Verdict.ACCEPTED
    assert house.at_line.finishes == [FINISH]


async def test_when_the_ingress_dies_what_waits_fails_and_the_next_call_goes_elsewhere(
    house: House,
) -> None:
    lines = await house.open()
    port = await house.connect()
    asking = asyncio.create_task(port.ask(ASK))
    await house.at_line.until(lambda: house.at_line.outstanding)
    hang_up(lines)
    with pytest.raises(Unavailable, match="broke"):
        await asking
    await house.at_line.until(lambda: not house.at_line.outstanding)
    assert await port.finish(FINISH) is Verdict.ACCEPTED
    assert house.at_handle.finishes == [FINISH]
    await house.open()
    await house.until_at_line(port)


async def test_an_ingress_that_closes_answers_first_and_takes_no_more(house: House) -> None:
    lines = await house.open()
    port = await house.connect()
    asking = asyncio.create_task(port.ask(ASK))
    await house.at_line.until(lambda: house.at_line.outstanding)
    await lines.stop_accepting()
    house.lines.clear()
    async with asyncio.timeout(120):
        while not house.at_handle.presences:
            await port.announce(PRESENCE)
            await asyncio.sleep(0)
    assert not asking.done()
    house.at_line.signal()
    await lines.aclose()
    assert await asking == Work()


async def test_a_line_on_which_a_call_was_given_up_after_long_is_hung_up(house: House) -> None:
    lines = await house.open()
    line = LocalClient(ask_patience_s=0.01)
    await asyncio.get_running_loop().create_unix_connection(lambda: line, lines.path)
    asking = asyncio.create_task(line.call("ask", ASK))
    other = asyncio.create_task(line.call("ask", ASK))
    await house.at_line.until(lambda: len(house.at_line.outstanding) == 2)
    await asyncio.sleep(0.02)
    asking.cancel()
    with pytest.raises(Unavailable):
        await other
    assert not line.accepts_calls


async def test_a_socket_is_its_owners_and_those_of_the_dead_are_cleared_away(house: House) -> None:
    alive = await house.open()
    assert house.directory.stat().st_mode & 0o777 == 0o700
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(house.directory / "dead"))
    other = await house.open()
    assert {str(path) for path in house.directory.iterdir()} == {alive.path, other.path}


async def test_where_no_socket_can_be_there_is_no_line_and_the_handle_does(house: House) -> None:
    house.directory = house.directory / ("long" * 30)
    lines = await house.open()
    assert not lines.path
    port = house.port()
    assert await port.finish(FINISH) is Verdict.ACCEPTED
    assert house.at_handle.finishes == [FINISH]


def hang_up(lines: LocalRpcServer) -> None:
    """Close the connections, as if the process were killed."""
    for end in lines._ends:
        assert end._transport is not None
        end._transport.abort()
