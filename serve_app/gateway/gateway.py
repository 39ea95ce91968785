"""What `darkroom serve` has besides its HTTP port: the TLS port, and the proxy port."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from serve_app.domain.errors import DarkroomError
from serve_app.domain.ports import Clock
from serve_app.entrance.authority import Authority
from serve_app.entrance.proxy_thread import KeyCheck, ProxyThread
from serve_app.entrance.terminator import Terminator, usable

WATCH_S = 2.0
EXPIRY_WATCH_S = 3600.0
ANY = ("0.0.0.0", "::", "")  # noqa: S104 compared with, not bound

log = logging.getLogger(__name__)

Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Plan:
    """Where to listen, and with what."""

    http: Place  # Darkroom's own port, behind both
    tls: Place | None
    proxy: Place | None
    names: tuple[str, ...] = ()  # by which clients know this machine
    certificate: Path | None = None  # of the operator's own, for all names that are not fal's
    key: Path | None = None  # None: it is in the same file


class Entrance:
    """``start`` opens what the plan has, ``aclose`` ends it.

    ``directory`` keeps the certificates, ``run_dir`` what is gone at the end. ``binary`` is
    HAProxy. ``say`` gets a sentence when something has to be mended while it runs.
    """

    def __init__(
        self,
        plan: Plan,
        directory: Path,
        run_dir: Path,
        binary: str,
        clock: Clock,
        say: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._clock = clock
        self._say = say
        self._run_dir = run_dir
        self._authority = Authority(directory, plan.names, clock)
        self._backend = reachable(plan.http)
        self._own = run_dir / "own.pem"
        self._own_read = (0.0, 0.0)
        self._terminator: Terminator | None = None
        if plan.tls is not None:
            own = () if plan.certificate is None else (self._own,)
            self._terminator = Terminator(
                binary, run_dir, plan.tls, self._backend, (*own, self._authority.server)
            )
        self._proxy: ProxyThread | None = None
        if plan.proxy is not None:
            fal_at = None if plan.tls is None else reachable(plan.tls)
            admits = KeyCheck(f"http://{joined(self._backend)}", clock)
            self._proxy = ProxyThread(plan.proxy, fal_at, admits)
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._watched, daemon=True, name="entrance")

    def start(self) -> None:
        """Raises ``Misconfigured`` when a port or a certificate cannot be used."""
        self._run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._terminator is not None:
            self._renewed()
            self._terminator.start()
        if self._proxy is not None:
            self._proxy.start()
        self._watch.start()

    def aclose(self) -> None:
        """Idempotent, and right after a start that failed."""
        self._done.set()
        if self._watch.ident is not None:
            self._watch.join()
        if self._proxy is not None:
            self._proxy.aclose()
        if self._terminator is not None:
            self._terminator.aclose()

    def _watched(self) -> None:
        looked = self._clock.monotonic()
        while not self._done.wait(WATCH_S):
            try:
                due = self._clock.monotonic() - looked > EXPIRY_WATCH_S
                looked = self._clock.monotonic() if due else looked
                self._mend(due=due)
            except (DarkroomError, OSError) as error:
                log.warning("%s", error)
                self._say(f"The TLS port: {error}")

    def _mend(self, *, due: bool) -> None:
        terminator = self._terminator
        if terminator is None:
            return
        if not terminator.runs:
            self._say("HAProxy of the TLS port had ended; it is started again.")
            terminator.start()
        elif (due or self._own_changed()) and self._renewed():
            terminator.renew()
            self._say("The TLS port has a new certificate.")

    def _renewed(self) -> bool:
        """Whether any certificate is another one now."""
        changed = self._authority.ensure()
        if self._plan.certificate is not None and self._own_changed():
            self._own_read = self._own_times()
            usable(self._plan.certificate, self._plan.key, self._own)
            changed = True
        return changed

    def _own_changed(self) -> bool:
        return self._plan.certificate is not None and self._own_times() != self._own_read

    def _own_times(self) -> tuple[float, float]:
        def changed_at(path: Path | None) -> float:
            try:
                return 0.0 if path is None else path.stat().st_mtime
            except OSError:
                return -1.0  # `usable` says what is wrong with it

        return changed_at(self._plan.certificate), changed_at(self._plan.key)


def reachable(place: Place) -> Place:
    """Where this machine itself reaches what listens at ``place``."""
    host, port = place
    if host in ANY:
        return ("::1" if host == "::" else "127.0.0.1"), port
    return place


def joined(place: Place) -> str:
    """As it stands in a URL."""
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
