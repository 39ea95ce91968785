"""Rows of the matrix: what is hit, and how."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

import psutil

from tests.bad_days.installation import GPU, Installation, address_of
from tests.chaos.proxy import Proxy
from tests.cluster import network

PROXIES = ("haproxy", "haproxy manager", "proxy actor")
ONE_OF_SEVERAL = frozenset({"replica", "ingress", "raylet", "node", "postgresql"})
NODES = frozenset({"raylet", "node"})
_NODE = NODES | {"GCS"}
KILLED_S = 10.0
"""Time after which a node that was killed is replaced. Ray and Serve start others again."""
RESET_EACH_S = 0.2
SLOW_S = 1.0
"""What storage takes longer, for each piece of a call."""

Fault = Callable[[Installation, float], contextlib.AbstractContextManager[None]]


@dataclass(frozen=True)
class Row:
    """``fault`` is entered, and left ``seconds`` later, or as many as the caller chooses. It raises
    ``Absent`` if another fault has taken away what it breaks. ``bridged``: it needs the bridge."""

    part: str
    how: str
    fault: Fault
    seconds: float | None = None
    bridged: bool = False

    @property
    def name(self) -> str:
        return f"{self.part} {self.how}".replace(" ", "-")

    def beside(self, other: Row) -> bool:
        """True if both can be broken at once. A node is replaced by way of the GCS."""
        return len({_NODE if row.part in _NODE else row.part for row in (self, other)}) == 2

    def breaks(self, place: Installation, seconds: float) -> None:
        """Let the fault last for ``seconds``."""
        end = time.monotonic() + seconds
        with self.fault(place, seconds):
            time.sleep(max(0.0, end - time.monotonic()))


class Absent(Exception):
    """A part has no process at the moment."""


def _processes(place: Installation, *parts: str) -> list[psutil.Process]:
    try:
        processes = [
            process
            for part in parts
            for process in (place.pick_one if part in ONE_OF_SEVERAL else place.parts)(part)
        ]
    except (psutil.NoSuchProcess, FileNotFoundError) as ended:  # meanwhile
        raise Absent(", ".join(parts)) from ended
    if not processes:
        raise Absent(", ".join(parts))
    return processes


def _kill(*parts: str) -> Fault:
    @contextlib.contextmanager
    def fault(place: Installation, seconds: float) -> Generator[None, None, None]:
        for process in _processes(place, *parts):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        yield
        if parts[0] in NODES:
            place.nodes.add(GPU)

    return fault


@contextlib.contextmanager
def _kill_gcs(place: Installation, seconds: float) -> Generator[None, None, None]:
    place.nodes.kill("gcs")
    try:
        yield
    finally:
        place.nodes.start("gcs")


def _freeze(*parts: str) -> Fault:
    @contextlib.contextmanager
    def fault(place: Installation, seconds: float) -> Generator[None, None, None]:
        frozen = _processes(place, *parts)
        try:
            for process in frozen:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.suspend()
            yield
        finally:
            for process in frozen:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()
        if parts[0] in NODES:  # its raylet ends when it hears that it was given up
            place.nodes.add(GPU)

    return fault


@contextlib.contextmanager
def _cut_off(place: Installation, seconds: float) -> Generator[None, None, None]:
    node = address_of(_processes(place, "raylet")[0])
    network.cut_off(node)
    try:
        yield
    finally:
        network.heal(node)
    place.nodes.add(GPU)  # as after a freeze


def _through(which: str, begin: Callable[[Proxy], None], again_s: float = 0.0) -> Fault:
    """Something that the proxy before the ``database`` or the ``storage`` does. ``again_s``: it is
    done again and again."""

    @contextlib.contextmanager
    def fault(place: Installation, seconds: float) -> Generator[None, None, None]:
        proxy: Proxy = getattr(place, which)
        end = time.monotonic() + seconds
        place.on_loop(lambda: begin(proxy))
        try:
            while again_s and time.monotonic() < end:
                time.sleep(again_s)
                place.on_loop(lambda: begin(proxy))
            yield
        finally:
            place.on_loop(proxy.heal)

    return fault


def _slow(proxy: Proxy) -> None:
    proxy.delay_s = SLOW_S


@contextlib.contextmanager
def _s3_answers_503(place: Installation, seconds: float) -> Generator[None, None, None]:
    assert place.s3.strict is not None
    place.s3.strict.away = True
    try:
        yield
    finally:
        place.s3.strict.away = False


ROWS = (
    Row("replica", "kill", _kill("replica"), KILLED_S),
    Row("replica", "freeze", _freeze("replica")),
    Row("raylet", "kill", _kill("raylet"), KILLED_S),
    Row("raylet", "freeze", _freeze("raylet")),
    Row("node", "kill", _kill("node"), KILLED_S),
    Row("node", "freeze", _freeze("node")),
    Row("node", "partition", _cut_off, bridged=True),
    Row("GCS", "kill", _kill_gcs),
    Row("GCS", "freeze", _freeze("gcs")),
    Row("controller", "kill", _kill("controller"), KILLED_S),
    Row("controller", "freeze", _freeze("controller")),
    Row("HAProxy", "kill", _kill("haproxy"), KILLED_S),
    Row("HAProxy", "freeze", _freeze("haproxy")),
    Row("ProxyActor", "kill", _kill("proxy actor"), KILLED_S),
    Row("ProxyActor", "freeze", _freeze("proxy actor")),
    Row("HAProxyManager", "kill", _kill("haproxy manager"), KILLED_S),
    Row("HAProxyManager", "freeze", _freeze("haproxy manager")),
    Row("HAProxy and both actors", "kill", _kill(*PROXIES), KILLED_S),
    Row("HAProxy and both actors", "freeze", _freeze(*PROXIES)),
    Row("ingress", "kill", _kill("ingress"), KILLED_S),
    Row("ingress", "freeze", _freeze("ingress")),
    Row("PostgreSQL", "kill", _kill("postgresql"), KILLED_S),
    Row("PostgreSQL", "freeze", _freeze("postgresql")),
    Row("PostgreSQL", "partition", _through("database", Proxy.blackhole)),
    Row("S3", "503s", _s3_answers_503),
    Row("S3", "hangs", _through("storage", Proxy.blackhole)),
    Row("S3", "resets", _through("storage", Proxy.reset, RESET_EACH_S)),
    Row("S3", "slow", _through("storage", _slow)),
)
