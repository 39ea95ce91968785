"""TLS termination in front of Darkroom's HTTP port, by a second HAProxy process.

It uses the binary of Ray's HAProxy package. Ray Serve reloads its own HAProxy whenever the replicas
change; this one is reloaded only for new certificates.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from serve_app.domain.errors import Misconfigured
from serve_app.gateway.private_file import write
from serve_app.gateway.unavailable import UNAVAILABLE

START_S = 10.0
END_S = 2.0
LOOK_S = 0.02

CONFIG = """# Written at each start of `darkroom serve`; see serve_app/gateway/tls_terminator.py.
global
    fd-hard-limit 20000
    hard-stop-after 1h
    ssl-default-bind-options ssl-min-ver TLSv1.2

defaults
    mode http
    # Closes the backend connection when the client disconnects, so that the ingress can cancel.
    option abortonclose
    timeout connect 5s
    timeout http-request 30s
    timeout http-keep-alive 60s
    # A synchronous run may send nothing for a long time.
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
    errorfile 502 {unavailable}
    errorfile 503 {unavailable}
    errorfile 504 {unavailable}

frontend tls
    bind {bind} ssl {certificates} alpn h2,http/1.1
    # Makes URLs in responses https; see serve_app/ingress/http/origin.py.
    http-request set-header x-darkroom-scheme https
    # No proxy is in front of this port, so a client wrote them.
    http-request del-header x-forwarded- -m beg
    # Tells the HTTP port whose call it is; see serve_app/ingress/http/client_address.py.
    http-request set-header x-darkroom-client %[src]
    {vouched}
    default_backend darkroom

backend darkroom
    server darkroom {backend}
"""

# No session tickets in TLS 1.3, which no setting of HAProxy turns off. They come after the
# handshake, beside the client's first request. Where one thread of a client reads while another
# writes, as in fal's `realtime` for Python, OpenSSL then may lose what is written, because a
# connection is not safe for two threads (openssl#20446, cpython#151508). 13 of 1,800 WebSockets
# beside load were never heard, and got 408 after `timeout http-request`; without tickets none of
# 3,500.
OPENSSL_CONFIG = """# See serve_app/gateway/tls_terminator.py.
openssl_conf = darkroom
[darkroom]
ssl_conf = tls
[tls]
system_default = server
[server]
NumTickets = 0
"""


class TlsTerminator:
    """HAProxy process at ``address``, in front of ``backend``.

    ``certificates`` are PEM files with their keys. HAProxy selects one by the name that the client
    requests; the first one is used for all other names. HAProxy's output is in
    ``<directory>/haproxy.log``.
    """

    def __init__(
        self,
        binary: str,
        directory: Path,
        address: tuple[str, int],
        backend: tuple[str, int],
        certificates: Sequence[Path],
        proxy_secret: str = "",
    ) -> None:
        """``proxy_secret``: letters and digits, by which the backend believes the address of the
        client; empty: it does not."""
        self._binary = binary
        self._config = directory / "haproxy.cfg"
        self._openssl = directory / "openssl.cnf"
        self._unavailable = directory / "unavailable.http"
        self._log = directory / "haproxy.log"
        self._address = address
        self._backend = backend
        self._certificates = certificates
        self._vouched = (
            f"http-request set-header x-darkroom-proxy-secret {proxy_secret}"
            if proxy_secret
            else "http-request del-header x-darkroom-proxy-secret"
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._earlier: list[subprocess.Popen[bytes]] = []  # replaced, still serving old connections

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start HAProxy and wait until it listens. Raises ``Misconfigured`` with its output."""
        self._config.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shown = " ".join(f"crt {_quote(str(path))}" for path in self._certificates)
        self._config.write_text(
            CONFIG.format(
                bind=_join_host_port(*self._address),
                certificates=shown,
                backend=_join_host_port(*self._backend),
                vouched=self._vouched,
                unavailable=_quote(str(self._unavailable)),
            )
        )
        self._unavailable.write_bytes(UNAVAILABLE.encode())
        self._openssl.write_text(OPENSSL_CONFIG)
        self._launch()

    def renew(self) -> None:
        """Replace the process by one with the current certificates. Open connections continue."""
        before = self._process
        self._earlier = [process for process in self._earlier if process.poll() is None]
        self._launch(*(() if before is None else ("-sf", str(before.pid))))
        if before is not None:
            self._earlier.append(before)

    def aclose(self) -> None:
        """Stop the process and its predecessors at once."""
        running = [child for child in (self._process, *self._earlier) if child is not None]
        self._process, self._earlier = None, []
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _launch(self, *more: str) -> None:
        with self._log.open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 our own arguments
                [self._binary, "-db", "-f", str(self._config), *more],
                # An operator's own stands: it may choose the cryptography that is allowed.
                env={"OPENSSL_CONF": str(self._openssl), **os.environ},  # noqa: TID251 a child's
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in a terminal must not end it before `aclose`
            )
        self._process = process
        end = time.monotonic() + START_S
        while not _listens(process.pid, self._address[1]):
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                process.wait()
                log_text = self._log.read_text(errors="replace").strip()[-1000:]
                raise Misconfigured(
                    f"HAProxy did not start on port {self._address[1]}. Its output: {log_text}"
                )
            time.sleep(LOOK_S)


def write_pem(certificate: Path, key: Path | None, into: Path) -> Path:
    """Write an operator's certificate and key to the one file that HAProxy needs.

    Raises ``Misconfigured`` if they cannot be read or do not belong together.
    """
    try:
        parts = [path.read_bytes() for path in (certificate, key) if path is not None]
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except OSError as error:  # ssl.SSLError is one
        where = f"{certificate}" if key is None else f"{certificate} with {key}"
        raise Misconfigured(
            f"The certificate {where} (DARKROOM_TLS_CERTIFICATE, DARKROOM_TLS_KEY) cannot be used: "
            f"{error.strerror or error}."
        ) from None
    write(into, b"\n".join(parts), secret=True)
    return into


def _join_host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _quote(word: str) -> str:
    """``word`` in strong quotes for HAProxy's configuration."""
    return "'" + word.replace("'", "'\\''") + "'"


def _listens(pid: int, port: int) -> bool:
    """Return True if this process listens. The port alone may still belong to its predecessor."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return any(
            connection.status == psutil.CONN_LISTEN
            and connection.laddr
            and connection.laddr.port == port
            for connection in psutil.Process(pid).net_connections("tcp")
        )
    return False
