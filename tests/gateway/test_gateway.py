"""The TLS port over a real HAProxy: it comes back, takes new certificates, and leaves nothing."""

from __future__ import annotations

import contextlib
import http.server
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from serve_app.cli import entrance_doctor, haproxy
from serve_app.cli.installation import Installation
from serve_app.cli.preflight import free_ports
from serve_app.domain.errors import Misconfigured
from serve_app.entrance import entrance as entrance_module
from serve_app.entrance.authority import SERVER_DAYS, Authority
from serve_app.entrance.entrance import Entrance, Plan
from serve_app.settings import Config
from tests.fakes.clock import FakeClock

HERE = "127.0.0.1"
DAY_S = 86400.0

pytestmark = pytest.mark.skipif(not haproxy.available(), reason="no HAProxy for this machine")


class Backend(http.server.BaseHTTPRequestHandler):
    """Answers with the headers that it was sent, below /held when it may."""

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
        with contextlib.suppress(ConnectionResetError):  # the entrance ends with connections open
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        return


class Rig:
    """An entrance before a backend, on a clock that a test moves."""

    def __init__(self, folder: Path, http_port: int) -> None:
        self.folder = folder
        self.tls, self.proxy = free_ports(2)
        # Behind the real one, by which clients judge, so that what is renewed is valid already.
        self.clock = FakeClock(datetime.now(UTC) - timedelta(days=150))
        self.said: list[str] = []
        self._http = (HERE, http_port)

    def entrance(self, **plan: Path) -> Entrance:
        places = Plan(self._http, (HERE, self.tls), (HERE, self.proxy), **plan)
        run_dir, binary = self.folder / "run", haproxy.binary()
        return Entrance(places, self.folder / "tls", run_dir, binary, self.clock, self.said.append)

    def processes(self) -> list[psutil.Process]:
        config = str(self.folder / "run" / "haproxy.cfg")
        return [one for one in psutil.Process().children() if config in one.cmdline()]

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
    """Its body: the headers that the backend was sent, in lower case."""
    said = b""
    while not said.partition(b"\r\n\r\n")[2]:
        block = connection.recv(65536)
        assert block, "the connection was cut"
        said += block
    return said.partition(b"\r\n\r\n")[2].decode().lower()


def self_signed(name: str, certificate: Path, key: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
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
    certificate.write_bytes(made.public_bytes(pem))


def eventually(look: Callable[[], object], within_s: float = 10.0) -> None:
    end = time.monotonic() + within_s
    while not look():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(entrance_module, "WATCH_S", 0.05)
    server = http.server.ThreadingHTTPServer((HERE, 0), Backend)
    server.daemon_threads = True
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield Rig(tmp_path, server.server_address[1])
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


@contextmanager
def running(entrance: Entrance) -> Iterator[None]:
    try:
        entrance.start()
        yield
    finally:
        entrance.aclose()


def test_the_ingress_is_told_that_it_was_tls_and_a_client_cannot_say_otherwise(rig: Rig) -> None:
    with running(rig.entrance()), rig.connection() as connection:
        ask(connection, "/", "x-darkroom-scheme: gopher")
        said = answer(connection)
    assert said.count("x-darkroom-scheme: https") == 1
    assert "gopher" not in said


def test_nothing_is_left_and_the_ports_are_free(rig: Rig) -> None:
    with running(rig.entrance()):
        assert len(rig.processes()) == 1
        with rig.connection():
            pass  # a connection of before does not hold the ports
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
    assert "started again" in rig.said[0]


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
            eventually(lambda: any("new certificate" in each for each in rig.said))
            after = Authority(rig.folder / "tls", (), rig.clock)
            assert not after.ensure(), "it was renewed already"
            Backend.may.set()
            assert "x-darkroom-scheme: https" in answer(waiting)
        eventually(lambda: rig.serial() != before)  # the old one listens until it is told


def test_a_certificate_of_one_s_own_is_for_all_names_but_fal_s(rig: Rig) -> None:
    own, key = rig.folder / "own.pem", rig.folder / "own.key"
    self_signed("pictures.example.org", own, key)
    with running(rig.entrance(certificate=own, key=key)):
        rig.serial("fal.run")  # trusted by the installation's own authority
        context = ssl.create_default_context(cafile=own)
        with (
            socket.create_connection((HERE, rig.tls), 10) as plain,
            context.wrap_socket(plain, server_hostname="pictures.example.org"),
        ):
            pass
        self_signed("pictures.example.org", own, key)  # as certbot would
        eventually(lambda: any("new certificate" in each for each in rig.said))


def test_a_certificate_that_cannot_be_used_is_told_at_the_start(rig: Rig) -> None:
    broken = rig.folder / "broken.pem"
    broken.write_text("not a certificate")
    for path in (broken, rig.folder / "missing.pem"):
        with pytest.raises(Misconfigured, match="DARKROOM_TLS_CERTIFICATE"):
            with running(rig.entrance(certificate=path)):
                pass
    assert rig.processes() == []


def test_a_port_that_was_taken_meanwhile_is_told(rig: Rig) -> None:
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
        said = {name: look() for name, look in entrance_doctor.of_running(place, Config(gpus=0))}
    assert "trusted as fal.run" in said["tls port"]
    assert "until 20" in said["certificate"]
    assert str(rig.proxy) in said["proxy port"]
    checks = dict(entrance_doctor.of_running(place, Config(gpus=0)))
    for name in ("tls port", "proxy port"):
        with pytest.raises(Misconfigured, match="does not answer"):
            checks[name]()


@pytest.mark.parametrize(("days", "word"), [(-1000, "ended"), (10 - SERVER_DAYS, "ends")])
def test_doctor_tells_a_certificate_that_ends(tmp_path: Path, days: int, word: str) -> None:
    clock = FakeClock(datetime.now(UTC))
    clock.advance(days * DAY_S)
    old = Authority(tmp_path / "tls", (), clock)
    old.ensure()
    with pytest.raises(Misconfigured, match=f" {word} on 20"):
        entrance_doctor.certificate(old.server)
