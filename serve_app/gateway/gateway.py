"""TLS port and proxy port of ``darkroom serve``, which it opens besides its HTTP port."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from serve_app.domain.errors import DarkroomError
from serve_app.domain.ports import Clock
from serve_app.gateway.certificate_authority import CertificateAuthority
from serve_app.gateway.proxy_thread import KeyCheck, ProxyThread
from serve_app.gateway.tls_terminator import TlsTerminator, write_pem

WATCH_INTERVAL_S = 2.0
EXPIRY_WATCH_S = 3600.0
WILDCARD_ADDRESSES = ("0.0.0.0", "::", "")  # noqa: S104 only compared, not bound

log = logging.getLogger(__name__)

Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class GatewayPlan:
    """Addresses to listen on, and the certificates to use."""

    http: Place  # Darkroom's HTTP port, the backend of both
    tls: Place | None
    proxy: Place | None
    names: tuple[str, ...] = ()  # host names under which clients reach this machine
    certificate: Path | None = None  # the operator's own, for all names that are not fal's
    key: Path | None = None  # None: the key is in the certificate's file
    proxy_secret: str = ""  # with which the TLS port says its client's address; empty: it does not


class Gateway:
    """Owner of the TLS port and the proxy port: ``start`` opens them, ``aclose`` closes them.

    ``directory`` holds the certificates, ``run_dir`` temporary files. ``binary`` is the path of
    HAProxy. ``report`` is called with a message when a problem is found or repaired while it runs.
    """

    def __init__(
        self,
        plan: GatewayPlan,
        directory: Path,
        run_dir: Path,
        binary: str,
        clock: Clock,
        report: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._clock = clock
        self._report = report
        self._run_dir = run_dir
        self._authority = CertificateAuthority(directory, plan.names, clock)
        self._backend = connect_address(plan.http)
        self._own = run_dir / "own.pem"
        self._own_read = (0.0, 0.0)
        self._terminator: TlsTerminator | None = None
        if plan.tls is not None:
            own = () if plan.certificate is None else (self._own,)
            self._terminator = TlsTerminator(
                binary,
                run_dir,
                plan.tls,
                self._backend,
                (*own, self._authority.server),
                plan.proxy_secret,
            )
        self._proxy: ProxyThread | None = None
        if plan.proxy is not None:
            fal_at = None if plan.tls is None else connect_address(plan.tls)
            admits = KeyCheck(f"http://{host_port(self._backend)}", clock)
            self._proxy = ProxyThread(plan.proxy, fal_at, admits)
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._watch_loop, daemon=True, name="entrance")

    def start(self) -> None:
        """Open the ports. Raises ``Misconfigured`` if a port or a certificate cannot be used."""
        self._run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._terminator is not None:
            self._renew_certificates()
            self._terminator.start()
        if self._proxy is not None:
            self._proxy.start()
        self._watch.start()

    def stop_repairs(self) -> None:
        """Repair and report nothing from now on, because a stop has begun."""
        self._done.set()

    def aclose(self) -> None:
        """Close the ports. Idempotent; also to be called after a failed start."""
        self.stop_repairs()
        if self._watch.ident is not None:
            self._watch.join()
        if self._proxy is not None:
            self._proxy.aclose()
        if self._terminator is not None:
            self._terminator.aclose()

    def _watch_loop(self) -> None:
        looked = self._clock.monotonic()
        problem = ""
        while not self._done.wait(WATCH_INTERVAL_S):
            try:
                due = self._clock.monotonic() - looked > EXPIRY_WATCH_S
                looked = self._clock.monotonic() if due else looked
                self._repair(due=due)
                problem = ""
            except (DarkroomError, OSError) as error:
                if str(error) == problem:
                    continue  # it is tried again each time, and said once
                problem = str(error)
                log.warning("%s", error)
                self._report(f"The TLS port has a problem: {error}")

    def _repair(self, *, due: bool) -> None:
        terminator = self._terminator
        if terminator is None:
            return
        if not terminator.is_running:
            self._report("HAProxy of the TLS port has stopped; restarting it.")
            terminator.start()
        elif (due or self._own_changed()) and self._renew_certificates():
            terminator.renew()
            self._report("The TLS port has a new certificate.")

    def _renew_certificates(self) -> bool:
        """Renew certificates if necessary; return True if any certificate has changed."""
        changed = self._authority.ensure()
        if self._plan.certificate is not None and self._own_changed():
            read = self._own_times()
            write_pem(self._plan.certificate, self._plan.key, self._own)
            self._own_read = read  # only now: a file that could not be read may not change again
            changed = True
        return changed

    def _own_changed(self) -> bool:
        return self._plan.certificate is not None and self._own_times() != self._own_read

    def _own_times(self) -> tuple[float, float]:
        def changed_at(path: Path | None) -> float:
            try:
                return 0.0 if path is None else path.stat().st_mtime
            except OSError:
                return -1.0  # `usable` reports what is wrong with the file

        return changed_at(self._plan.certificate), changed_at(self._plan.key)


def connect_address(place: Place) -> Place:
    """Address at which this machine itself reaches a port bound to ``place``."""
    host, port = place
    if host in WILDCARD_ADDRESSES:
        return ("::1" if host == "::" else "127.0.0.1"), port
    return place


def host_port(place: Place) -> str:
    """``host:port`` as in a URL."""
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
