"""TLS in front of Darkroom's HTTP port: a second HAProxy, of the package that brings Ray's.

Ray Serve writes the configuration of its own and reloads it when replicas come and go; this one is
left alone but for new certificates.
"""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from serve_app.domain.errors import Misconfigured
from serve_app.entrance.private_file import write

START_S = 10.0
END_S = 2.0
LOOK_S = 0.02

CONFIG = """# Written at each start of `darkroom serve`; see serve_app/entrance/terminator.py.
global
    fd-hard-limit 20000
    hard-stop-after 1h
    ssl-default-bind-options ssl-min-ver TLSv1.2

defaults
    mode http
    # A client that goes away is told to the ingress, which cancels what it waited for.
    option abortonclose
    timeout connect 5s
    timeout http-request 30s
    timeout http-keep-alive 60s
    # A synchronous run may be silent for long.
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h

frontend tls
    bind {bind} ssl {certificates} alpn h2,http/1.1
    # So that URLs in answers are https; see serve_app/ingress/origin.py.
    http-request set-header x-darkroom-scheme https
    default_backend darkroom

backend darkroom
    server darkroom {backend}
"""


class Terminator:
    """HAProxy at ``host:port``, in front of ``backend``.

    ``certificates`` are PEM files with their keys; which one is shown is chosen by the name that
    the client asks for, and the first one is for all other names. What HAProxy says is in
    ``<directory>/haproxy.log``.
    """

    def __init__(
        self,
        binary: str,
        directory: Path,
        address: tuple[str, int],
        backend: tuple[str, int],
        certificates: Sequence[Path],
    ) -> None:
        self._binary = binary
        self._config = directory / "haproxy.cfg"
        self._log = directory / "haproxy.log"
        self._address = address
        self._backend = backend
        self._certificates = certificates
        self._process: subprocess.Popen[bytes] | None = None
        self._earlier: list[subprocess.Popen[bytes]] = []  # that serve what they had when replaced

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Returns when it listens. ``Misconfigured`` with what HAProxy says when it does not."""
        self._config.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shown = " ".join(f"crt {_quoted(str(path))}" for path in self._certificates)
        self._config.write_text(
            CONFIG.format(
                bind=_joined(*self._address),
                certificates=shown,
                backend=_joined(*self._backend),
            )
        )
        self._launch()

    def renew(self) -> None:
        """With the certificates as they are now. Connections that are open go on."""
        before = self._process
        self._earlier = [one for one in self._earlier if one.poll() is None]
        self._launch(*(() if before is None else ("-sf", str(before.pid))))
        if before is not None:
            self._earlier.append(before)

    def aclose(self) -> None:
        """End it at once, and those that it replaced."""
        running = [each for each in (self._process, *self._earlier) if each is not None]
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
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._process = process
        end = time.monotonic() + START_S
        while not _listens(process.pid, self._address[1]):
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                process.wait()
                said = self._log.read_text(errors="replace").strip()[-1000:]
                raise Misconfigured(f"HAProxy did not start on port {self._address[1]}: {said}")
            time.sleep(LOOK_S)


def usable(certificate: Path, key: Path | None, into: Path) -> Path:
    """An operator's certificate and key as one file, which is what HAProxy takes.

    ``Misconfigured`` when they cannot be read or do not belong together.
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


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _quoted(word: str) -> str:
    """For HAProxy's configuration, in strong quotes."""
    return "'" + word.replace("'", "'\\''") + "'"


def _listens(pid: int, port: int) -> bool:
    """Whether this very process does: the port alone may still be its predecessor's."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return any(
            found.status == psutil.CONN_LISTEN and found.laddr and found.laddr.port == port
            for found in psutil.Process(pid).net_connections("tcp")
        )
    return False
