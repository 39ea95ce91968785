"""Single try of a webhook over real sockets."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from email.utils import format_datetime

import httpcore2
import pytest

from serve_app.domain.addresses import PrivateAddress
from serve_app.domain.errors import Misconfigured
from serve_app.domain.name_resolution import NameResolver
from serve_app.telemetry.clock import SystemClock
from serve_app.webhooks.sender import PublicOnly, Sender, make_tls_context
from serve_app.webhooks.signing import SignedMessage, Signer
from tests.fakes.signing_seeds import FakeSigningSeeds
from tests.webhooks.receiver import Receiver, Reply, always, each

PARCEL = SignedMessage("delivery-1", "request-1", "ann", b'{"status":"OK"}')
CLOCK = SystemClock()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    async def names(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"] if host.endswith(".example") else await NameResolver()(host, port)

    sender = Sender(names, Signer(FakeSigningSeeds(CLOCK), CLOCK), CLOCK, allow_private=True)
    await sender.start()
    yield sender
    await sender.aclose()


async def test_connections_are_used_again(sender: Sender, receiver: Receiver) -> None:
    for _ in range(5):
        assert (await sender.post(receiver.url(), PARCEL, 5.0)).is_accepted
    assert receiver.connections == 1


async def test_another_name_at_the_same_address_has_a_connection_of_its_own(
    sender: Sender, receiver: Receiver
) -> None:
    await sender.post(receiver.url(host="a.example"), PARCEL, 5.0)
    await sender.post(receiver.url(host="b.example"), PARCEL, 5.0)
    assert receiver.connections == 2
    hosts = [received.headers["host"] for received in receiver.received]
    assert hosts == [f"a.example:{receiver.port}", f"b.example:{receiver.port}"]


async def test_an_answer_that_never_ends_counts_by_its_status(
    sender: Sender, receiver: Receiver
) -> None:
    receiver.script = each(Reply(endless=True), Reply(500, endless=True))
    answer = await sender.post(receiver.url(), PARCEL, 10.0)
    assert (answer.is_accepted, answer.status) == (True, 200)
    assert answer.took_s < 5
    answer = await sender.post(receiver.url(), PARCEL, 10.0)
    assert (answer.is_accepted, answer.status) == (False, 500)


async def test_who_does_not_answer_in_time_has_not_taken_it(
    sender: Sender, receiver: Receiver
) -> None:
    receiver.script = always(Reply(hangs=True))
    answer = await sender.post(receiver.url(), PARCEL, 0.2)
    assert (answer.status, answer.error) == (None, "It did not answer within 0.2 s.")


async def test_who_cannot_be_reached_has_not_taken_it(sender: Sender, receiver: Receiver) -> None:
    await receiver.aclose()
    answer = await sender.post(receiver.url(), PARCEL, 5.0)
    assert answer.error.startswith("No connection")
    answer = await sender.post("http://nowhere.invalid/", PARCEL, 5.0)
    assert "nowhere.invalid" in answer.error
    assert not answer.final


@pytest.mark.parametrize("says", ["It is closed", "It is closed.", "It is closed..."])
async def test_a_reason_ends_with_one_full_stop(receiver: Receiver, says: str) -> None:
    async def names(host: str, port: int) -> Sequence[str]:
        raise httpcore2.ConnectError(says)

    sender = Sender(names, Signer(FakeSigningSeeds(CLOCK), CLOCK), CLOCK, allow_private=True)
    await sender.start()
    answer = await sender.post(receiver.url(host="a.example"), PARCEL, 5.0)
    await sender.aclose()
    assert answer.error == "No connection: It is closed."


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_server_that_speaks_something_else_has_not_taken_it(
    sender: Sender, scheme: str
) -> None:
    def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ready\r\n")
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        answer = await sender.post(f"{scheme}://127.0.0.1:{port}/", PARCEL, 5.0)
    assert answer.error.startswith("No ")
    assert not answer.final


async def test_a_name_and_password_become_basic_authentication(
    sender: Sender, receiver: Receiver
) -> None:
    url = f"http://me:p%40ss@127.0.0.1:{receiver.port}/x"
    await sender.post(url, PARCEL, 5.0)
    authorization = receiver.received[0].headers["authorization"]
    assert base64.b64decode(authorization.removeprefix("Basic ")) == b"me:p@ss"
    assert receiver.received[0].target == "/x"


@pytest.mark.parametrize(("retry_after", "expected_s"), [("120", 120), ("99999999999", 3600)])
async def test_retry_after_is_read_in_seconds(
    sender: Sender, receiver: Receiver, retry_after: str, expected_s: float
) -> None:
    receiver.script = always(Reply(503, (("Retry-After", retry_after),)))
    assert (await sender.post(receiver.url(), PARCEL, 5.0)).again_after_s == expected_s


@pytest.mark.parametrize(("from_now_s", "least", "most"), [(900, 600, 901), (-900, 0, 0)])
async def test_retry_after_is_read_as_a_time(
    sender: Sender, receiver: Receiver, from_now_s: float, least: float, most: float
) -> None:
    at = format_datetime(CLOCK.now() + timedelta(seconds=from_now_s))
    receiver.script = always(Reply(503, (("Retry-After", at),)))
    answer = await sender.post(receiver.url(), PARCEL, 5.0)
    assert answer.again_after_s is not None
    assert least <= answer.again_after_s <= most


@pytest.mark.parametrize("retry_after", ["soon", "Mon, 01 Jan 99999999999 00:00:00 GMT"])
async def test_a_retry_after_that_cannot_be_read_is_none(
    sender: Sender, receiver: Receiver, retry_after: str
) -> None:
    receiver.script = always(Reply(503, (("Retry-After", retry_after),)))
    assert (await sender.post(receiver.url(), PARCEL, 5.0)).again_after_s is None


class Refusing(httpcore2.AsyncMockBackend):
    """Network backend that connects to only one of several addresses."""

    def __init__(self, good: str) -> None:
        super().__init__([])
        self._good = good
        self.tried: list[str] = []

    async def connect_tcp(self, host: str, *args: object, **more: object) -> object:  # type: ignore[override]
        self.tried.append(host)
        if host != self._good:
            raise httpcore2.ConnectError("refused")
        return httpcore2.AsyncMockStream([])


PRIVATE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "0.0.0.0",  # noqa: S104
    "::1", "fe80::1", "fc00::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::7f00:1",
    "fec0::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
async def test_one_private_address_of_a_name_is_enough_to_refuse_it(address: str) -> None:
    async def names(host: str, port: int) -> Sequence[str]:
        return ["93.184.215.14", address]

    backend = Refusing("93.184.215.14")
    with pytest.raises(PrivateAddress, match=r"x\.example has a private address"):
        await PublicOnly(backend, names, allow_private=False).connect_tcp("x.example", 443)
    assert backend.tried == []


async def test_a_private_receiver_is_dead_at_once_and_the_setting_is_named(
    receiver: Receiver,
) -> None:
    signer = Signer(FakeSigningSeeds(CLOCK), CLOCK)
    sender = Sender(NameResolver(), signer, CLOCK, allow_private=False)
    await sender.start()
    try:
        answer = await sender.post(receiver.url(), PARCEL, 5.0)
    finally:
        await sender.aclose()
    assert answer.final
    assert "DARKROOM_ALLOW_PRIVATE_WEBHOOKS" in answer.error
    assert receiver.received == []


async def test_each_address_of_a_name_is_tried() -> None:
    async def names(host: str, port: int) -> Sequence[str]:
        return ["93.184.215.14", "93.184.215.15"]

    backend = Refusing("93.184.215.15")
    await PublicOnly(backend, names, allow_private=False).connect_tcp("x.example", 443)
    assert backend.tried == ["93.184.215.14", "93.184.215.15"]


def test_certificates_are_checked() -> None:
    context = make_tls_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_a_file_of_roots_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/roots.pem")
    with pytest.raises(Misconfigured, match=r"SSL_CERT_FILE is '/nowhere/roots\.pem'"):
        make_tls_context()
