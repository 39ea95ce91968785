"""TLS port with a real HAProxy: it restarts, loads new certificates and leaves no processes."""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fal_client.client
import httpx
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from serve_app.cli.connection.installation import Installation
from serve_app.cli.doctor.checks import certificate, gateway_checks
from serve_app.cli.serve import haproxy
from serve_app.domain.errors import Misconfigured
from serve_app.free_ports import free_port, free_ports
from serve_app.gateway import gateway as gateway_module
from serve_app.gateway.certificate_authority import SERVER_DAYS, CertificateAuthority
from serve_app.gateway.gateway import Gateway, GatewayPlan
from serve_app.settings import Config
from tests.cluster.processes import command_of
from tests.fakes.clock import FakeClock

HERE = "127.0.0.1"
DAY_S = 86400.0

pytestmark = pytest.mark.skipif(not haproxy.available(), reason="no HAProxy for this machine")


class Backend(http.server.BaseHTTPRequestHandler):
    """Backend that answers with the request's headers; below /held only when it is allowed to."""

    protocol_version = "HTTP/1.1"
    may = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/held":
            self.may.wait(10)
        body = str(self.headers).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionResetError):  # the gateway closes with open connections
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        return


class Rig:
    """Gateway in front of a backend, with a clock that the test controls."""

    def __init__(self, folder: Path, http_port: int) -> None:
        self.folder = folder
        self.tls, self.proxy = free_ports(2)
        # Behind the real clock, which clients use, so that renewed certificates are already valid.
        self.clock = FakeClock(datetime.now(UTC) - timedelta(days=150))
        self.said: list[str] = []
        self._http = (HERE, http_port)

    def entrance(self, **plan: Any) -> Gateway:
        places = GatewayPlan(self._http, (HERE, self.tls), (HERE, self.proxy), **plan)
        run_dir, binary = self.folder / "run", haproxy.binary()
        return Gateway(places, self.folder / "tls", run_dir, binary, self.clock, self.said.append)

    def processes(self) -> list[psutil.Process]:
        config = str(self.folder / "run" / "haproxy.cfg")
        return [process for process in psutil.Process().children() if config in command_of(process)]

    @contextmanager
    def connection(self, name: str = "fal.run") -> Iterator[ssl.SSLSocket]:
        context = ssl.create_default_context(cafile=self.folder / "tls" / "ca.pem")
        with (
            socket.create_connection((HERE, self.tls), 10) as plain,
            context.wrap_socket(plain, server_hostname=name) as secure,
        ):
            yield secure

    def serial(self, name: str = "fal.run") -> str:
        with self.connection(name) as secure:
            shown = secure.getpeercert()
            assert shown is not None
            return str(shown["serialNumber"])


def ask(connection: ssl.SSLSocket, path: str, *headers: str) -> None:
    head = "\r\n".join((f"GET {path} HTTP/1.1", "host: fal.run", *headers, "", ""))
    connection.sendall(head.encode())


def answer(connection: ssl.SSLSocket) -> str:
    """Body of the response: the headers that the backend received, in lower case."""
    received = b""
    while not received.partition(b"\r\n\r\n")[2]:
        block = connection.recv(65536)
        assert block, "the connection was cut"
        received += block
    return received.partition(b"\r\n\r\n")[2].decode().lower()


def self_signed(name: str, certificate: Path, key: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    issued = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(private, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form, open_ = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key.write_bytes(private.private_bytes(pem, form, open_))
    certificate.write_bytes(issued.public_bytes(pem))


def eventually(look: Callable[[], object], within_s: float = 60.0) -> None:
    end = time.monotonic() + within_s
    while not look():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(gateway_module, "WATCH_INTERVAL_S", 0.05)
    server = http.server.ThreadingHTTPServer((HERE, 0), Backend)
    server.daemon_threads = True
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    try:
        yield Rig(tmp_path, server.server_address[1])
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


@contextmanager
def running(entrance: Gateway) -> Iterator[None]:
    try:
        entrance.start()
        yield
    finally:
        entrance.aclose()


def test_the_ingress_learns_that_it_was_tls_and_a_client_cannot_say_otherwise(rig: Rig) -> None:
    with running(rig.entrance()), rig.connection() as connection:
        ask(connection, "/", "x-darkroom-scheme: gopher")
        reply = answer(connection)
    assert reply.count("x-darkroom-scheme: https") == 1
    assert "gopher" not in reply


@pytest.mark.parametrize("secret", ["", "s3cret"])
def test_the_http_port_learns_the_client_and_a_client_cannot_say_otherwise(
    rig: Rig, secret: str
) -> None:
    with running(rig.entrance(proxy_secret=secret)), rig.connection() as connection:
        ask(connection, "/", "x-darkroom-client: 6.6.6.6", "x-darkroom-proxy-secret: a guess")
        reply = answer(connection)
    assert reply.count(f"x-darkroom-client: {HERE}") == 1
    assert reply.count("x-darkroom-proxy-secret: s3cret") == bool(secret)
    assert "6.6.6.6" not in reply
    assert "a guess" not in reply


def test_without_an_ingress_a_call_is_to_be_repeated(tmp_path: Path) -> None:
    rig = Rig(tmp_path, free_port())
    with running(rig.entrance()):
        trust = ssl.create_default_context(cafile=tmp_path / "tls" / "ca.pem")
        with httpx.Client(verify=trust) as client:
            url, name = f"https://{HERE}:{rig.tls}/test/probe", {"sni_hostname": "fal.run"}
            answer = client.post(url, extensions=name)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "does not answer" in answer.json()["detail"]
    assert fal_client.client._is_ingress_error(answer), "fal's client repeats it"


def test_no_session_ticket_comes_beside_the_first_request(rig: Rig) -> None:
    with running(rig.entrance()), rig.connection() as connection:
        assert connection.version() == "TLSv1.3"
        ask(connection, "/")
        answer(connection)
        assert connection.session is not None
        assert not connection.session.has_ticket


class Pieces:
    """TLS over a socket whose bytes go out as ``send`` says. One thread, and nothing in between."""

    def __init__(self, rig: Rig, way: str, send: Callable[[socket.socket, bytes], None]) -> None:
        context = ssl.create_default_context(cafile=rig.folder / "tls" / "ca.pem")
        self._from, self._to, self._send = ssl.MemoryBIO(), ssl.MemoryBIO(), send
        self._tls = context.wrap_bio(self._from, self._to, server_hostname="fal.run")
        self._socket = socket.create_connection((HERE, getattr(rig, way)), 10)
        self._first = b"CONNECT fal.run:443 HTTP/1.1\r\n\r\n" if way == "proxy" else b""
        self._tunnel = not self._first

    def ask(self, request: bytes) -> bytes:
        """The first bytes of the answer. The end of the handshake and the request go together."""
        with self._socket:
            self._until(self._tls.do_handshake)
            self._tls.write(request)
            return self._until(lambda: self._tls.read(1000))

    def _until(self, step: Callable[[], Any]) -> Any:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                # The proxy is asked and TLS begins in one piece, without waiting for its answer.
                self._send(self._socket, self._first + self._to.read())
                self._first = b""
                self._from.write(self._received())

    def _received(self) -> bytes:
        received = self._socket.recv(65536)
        assert received, "the connection was cut"
        while not self._tunnel:
            head, ended, rest = received.partition(b"\r\n\r\n")
            if ended:
                assert b" 200 " in head
                self._tunnel, received = True, rest or self._socket.recv(65536)
            else:
                received += self._socket.recv(65536)
        return received


def in_one_piece(connection: socket.socket, block: bytes) -> None:
    connection.sendall(block)


def byte_by_byte(connection: socket.socket, block: bytes) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in block:
        connection.sendall(bytes([byte]))


def hesitating(connection: socket.socket, block: bytes) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for part in (block[:3], block[3:-3], block[-3:]):
        connection.sendall(part)
        time.sleep(0.05)


@pytest.mark.parametrize("send", [in_one_piece, byte_by_byte, hesitating])
@pytest.mark.parametrize("way", ["tls", "proxy"])
def test_a_request_is_heard_in_whatever_pieces_it_comes(
    way: str, send: Callable[[socket.socket, bytes], None], rig: Rig
) -> None:
    with running(rig.entrance()):
        reply = Pieces(rig, way, send).ask(b"GET / HTTP/1.1\r\nhost: fal.run\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 200 ")


@pytest.mark.long
@pytest.mark.parametrize("way", ["tls", "proxy"])
def test_requests_of_many_at_once_are_all_heard(way: str, rig: Rig) -> None:
    def heard(number: int) -> bool:
        send = (in_one_piece, byte_by_byte, hesitating)[number % 3]
        reply = Pieces(rig, way, send).ask(b"GET / HTTP/1.1\r\nhost: fal.run\r\n\r\n")
        return reply.startswith(b"HTTP/1.1 200 ")

    with running(rig.entrance()), ThreadPoolExecutor(32) as callers:
        assert all(callers.map(heard, range(192)))


def test_nothing_is_left_and_the_ports_are_free(rig: Rig) -> None:
    with running(rig.entrance()):
        (process,) = rig.processes()
        assert os.getsid(process.pid) != os.getsid(0), "Ctrl-C in a terminal does not reach it"
        with rig.connection():
            pass  # an earlier connection does not hold the ports
    assert rig.processes() == []
    for port in (rig.tls, rig.proxy):
        socket.create_server((HERE, port)).close()


def test_a_haproxy_that_was_killed_is_started_again(rig: Rig) -> None:
    with running(rig.entrance()):
        (process,) = rig.processes()
        process.kill()
        process.wait(10)
        eventually(lambda: rig.said)
        eventually(rig.processes)
        eventually(lambda: reachable(rig))
    assert "restarting" in rig.said[0]


def test_nothing_is_repaired_or_said_once_a_stop_has_begun(rig: Rig) -> None:
    entrance = rig.entrance()
    with running(entrance):
        entrance.stop_repairs()
        entrance._watch.join(10)
        (process,) = rig.processes()
        process.kill()
        process.wait(10)
    assert rig.said == []


def reachable(rig: Rig) -> bool:
    try:
        with rig.connection():
            return True
    except OSError:
        return False


def test_a_certificate_near_its_end_is_renewed_without_cutting_anybody_off(rig: Rig) -> None:
    with running(rig.entrance()):
        before = rig.serial()
        with rig.connection() as waiting:
            ask(waiting, "/held")
            rig.clock.advance(125 * DAY_S)
            eventually(lambda: any("new certificate" in line for line in rig.said))
            after = CertificateAuthority(rig.folder / "tls", (), rig.clock)
            assert not after.ensure(), "it was renewed already"
            Backend.may.set()
            assert "x-darkroom-scheme: https" in answer(waiting)
        eventually(lambda: rig.serial() != before)  # the old process listens until it is signalled


def test_a_certificate_of_one_s_own_is_for_all_names_but_fal_s(rig: Rig) -> None:
    own, key = rig.folder / "own.pem", rig.folder / "own.key"
    self_signed("images.example.org", own, key)
    with running(rig.entrance(certificate=own, key=key)):
        rig.serial("fal.run")  # trusted through the installation's own authority
        context = ssl.create_default_context(cafile=own)
        with (
            socket.create_connection((HERE, rig.tls), 10) as plain,
            context.wrap_socket(plain, server_hostname="images.example.org"),
        ):
            pass
        self_signed("images.example.org", own, key)  # like certbot
        eventually(lambda: any("new certificate" in line for line in rig.said))


def test_a_certificate_of_one_s_own_that_cannot_be_taken_at_first_is_taken_later(rig: Rig) -> None:
    own, key = rig.folder / "own.pem", rig.folder / "own.key"
    self_signed("images.example.org", own, key)
    with running(rig.entrance(certificate=own, key=key)):
        obstacle = rig.folder / "run" / ".own.pem.new"  # like a full disk, or a file of root's
        obstacle.mkdir()
        self_signed("images.example.org", own, key)
        eventually(lambda: any("has a problem" in line for line in rig.said))
        obstacle.rmdir()
        eventually(lambda: any("new certificate" in line for line in rig.said))
    assert sum("has a problem" in line for line in rig.said) == 1


def test_a_certificate_that_cannot_be_used_is_reported_at_the_start(rig: Rig) -> None:
    broken = rig.folder / "broken.pem"
    broken.write_text("not a certificate")
    for path in (broken, rig.folder / "missing.pem"):
        with pytest.raises(Misconfigured, match="DARKROOM_TLS_CERTIFICATE"):
            with running(rig.entrance(certificate=path)):
                pass
    assert rig.processes() == []


def test_a_port_that_was_taken_meanwhile_is_reported(rig: Rig) -> None:
    with socket.create_server((HERE, rig.tls)):
        with pytest.raises(Misconfigured, match=f"port {rig.tls}"):
            with running(rig.entrance()):
                pass
    with socket.create_server((HERE, rig.proxy)):
        with pytest.raises(Misconfigured, match="--proxy-port"):
            with running(rig.entrance()):
                pass
    assert rig.processes() == []


def test_doctor_looks_at_ports_and_certificate(rig: Rig, tmp_path: Path) -> None:
    ports = f'"tls_url": "https://{HERE}:{rig.tls}", "proxy_url": "http://{HERE}:{rig.proxy}"'
    (tmp_path / "run.json").write_text(f'{{"url": "http://{HERE}:1", {ports}}}')
    place = Installation(tmp_path)
    with running(rig.entrance()):
        findings = {name: look() for name, look in gateway_checks(place, Config(gpus=0))}
    assert "trusted as fal.run" in findings["tls port"]
    assert "until 20" in findings["certificate"]
    assert str(rig.proxy) in findings["proxy port"]
    checks = dict(gateway_checks(place, Config(gpus=0)))
    for name in ("tls port", "proxy port"):
        with pytest.raises(Misconfigured, match="does not answer"):
            checks[name]()


@pytest.mark.parametrize(("days", "word"), [(-1000, "expired"), (10 - SERVER_DAYS, "expires")])
def test_doctor_reports_a_certificate_that_ends(tmp_path: Path, days: int, word: str) -> None:
    clock = FakeClock(datetime.now(UTC))
    clock.advance(days * DAY_S)
    old = CertificateAuthority(tmp_path / "tls", (), clock)
    old.ensure()
    with pytest.raises(Misconfigured, match=f" {word} on 20"):
        certificate(old.server)
