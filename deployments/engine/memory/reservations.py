"""Reservations of device memory for weights to be loaded beside running generations.

A loading thread requests a reservation. The engine grants it when it fits beside what the running
generations are still expected to take. Until the weights are loaded, no other generation begins.
Compiling takes minutes, and no request waits for a spare load, so their reservations are shared:
generations begin in what these leave. Those of spare loads, and of code that is compiled while
requests run as written, also wait behind generations and behind other reservations.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from deployments.engine.accelerator.errors import is_out_of_memory
from deployments.engine.accelerator.interface import DeviceMemory, MemoryUse
from deployments.engine.errors import release_frames


class CommonMemory:
    """Device memory as generations see it: reserved memory is not free."""

    def __init__(self, memory: DeviceMemory) -> None:
        self._memory = memory
        self._changes = 0  # reservations granted, and releases of memory, so far
        self.set_aside = 0  # bytes
        self._disturbing = 0  # blocks of ``compiling``
        self._recording = threading.Lock()  # held in blocks of ``recording``

    def free(self) -> int | None:
        free = self._memory.free()
        return None if free is None else max(0, free - self.set_aside)

    def total(self) -> int | None:
        return self._memory.total()

    def held_bytes(self) -> int:
        return self._memory.held_bytes()

    @contextmanager
    def measure(self) -> Generator[MemoryUse]:
        changes = self._changes
        with self._memory.measure() as taken:
            yield taken
        taken.reliable = not self._is_disturbed and changes == self._changes

    @contextmanager
    def compiling(self) -> Generator[None]:
        """Block in which the calling thread compiles and computes on the device.

        Measurements during the block are unreliable, and nothing is recorded: compilers wait for
        the whole device, which breaks recordings. The block begins after the end of one.
        """
        with self._recording:
            self._changes += 1
            self._disturbing += 1
        try:
            yield
        finally:
            with self._recording:
                self._disturbing -= 1

    @contextmanager
    def recording(self) -> Generator[bool]:
        """Block in which the engine's thread may record work, if it yields True.

        False: another thread compiles, which takes minutes, or loads weights, which may run out of
        memory. A recording does not wait for it: a later forward is recorded instead.
        """
        with self._recording:
            yield not self._is_disturbed

    @property
    def _is_disturbed(self) -> bool:
        return bool(self.set_aside or self._disturbing)

    def disturb(self) -> None:
        """Mark the running measurement as unreliable."""
        self._changes += 1

    def release(self) -> None:
        self._changes += 1
        self._memory.release()

    def grant(self, size: int) -> None:
        self._changes += 1
        self.set_aside += size


class Reservation:
    """Reservation of ``size`` bytes. ``granted`` is True once they are reserved."""

    def __init__(
        self,
        size: int,
        notify: Callable[[], None],
        *,
        alone: bool,
        shared: bool = False,
        spare: bool = False,
    ) -> None:
        self.size = size
        self.notify = notify
        self.alone = alone
        self.shared = shared or spare
        self.spare = spare
        self.granted = False

    def is_urgent(self) -> None:
        """Note that a request waits for it now: generations begin after it."""
        self.spare = self.shared = False


class Reservations:
    """Reservations. ``grant`` and ``grant_all`` are for the engine's thread, the rest for any."""

    def __init__(
        self, memory: CommonMemory, relieve: Callable[[], None], wake: Callable[[], None]
    ) -> None:
        """``relieve``: drops idle memory. ``wake``: wakes the engine's thread."""
        self._memory = memory
        self._relieve = relieve
        self._wake = wake
        self._lock = threading.Lock()
        self._waiting: list[Reservation] = []
        self._taken: list[Reservation] = []

    def request(
        self,
        size: int,
        notify: Callable[[], None],
        *,
        alone: bool,
        shared: bool = False,
        spare: bool = False,
    ) -> Reservation:
        """Request a reservation. ``notify`` is called on the engine's thread when it is granted.

        ``notify`` must be quick. ``alone``: grant it only when no generation runs, and after idle
        memory was dropped. ``shared``: generations may begin beside it once it is granted.
        ``spare``: also before that.
        """
        reservation = Reservation(size, notify, alone=alone, shared=shared, spare=spare)
        if self._memory.free() is None:  # memory is not limited
            reservation.granted = True
            return reservation
        with self._lock:
            self._waiting.append(reservation)
        self._wake()
        return reservation

    def release(self, reservation: Reservation) -> None:
        """Release: the weights are loaded, or will not be. Does nothing the second time."""
        with self._lock:
            if reservation in self._waiting:
                self._waiting.remove(reservation)
            if reservation in self._taken:
                self._taken.remove(reservation)
                self._memory.set_aside -= reservation.size
        self._wake()

    @property
    def has_requests(self) -> bool:
        """Return whether a request waits."""
        return bool(self._waiting)

    @property
    def is_blocking(self) -> bool:
        """Return whether generations must not begin now.

        A request waits that is not spare, or weights are being loaded into a reservation that is
        not shared.
        """
        return any(not request.spare for request in [*self._waiting]) or any(
            not reservation.shared for reservation in [*self._taken]
        )

    def grant(self, fits: Callable[[int], bool], *, none_runs: bool) -> None:
        """Grant what can be granted, spare ones last: none of the others waits for them.

        ``fits``: whether so many bytes are free beside what running generations are expected to
        take. ``none_runs``: no generation runs, so waiting would not free any memory.
        """
        for reservation in sorted([*self._waiting], key=lambda candidate: candidate.spare):
            if none_runs or (not reservation.alone and fits(reservation.size)):
                if reservation.alone:
                    self._relieve()
                self._grant(reservation)
            elif not reservation.spare:
                return

    def grant_all(self) -> None:
        """Grant all requests, because the engine has ended and needs no memory."""
        for reservation in [*self._waiting]:
            self._grant(reservation)

    def _grant(self, reservation: Reservation) -> None:
        with self._lock:
            if reservation not in self._waiting:  # it was released in between
                return
            self._waiting.remove(reservation)
            self._taken.append(reservation)
            self._memory.grant(reservation.size)
            reservation.granted = True
        reservation.notify()


log = logging.getLogger(__name__)


class MemoryPressure:
    """What is dropped and reported when the device runs out of memory.

    For the engine's thread, except ``add_reclaimer``.
    """

    def __init__(self, memory: DeviceMemory) -> None:
        self._memory = memory
        self._reclaimers: list[Callable[[], None]] = []

    def add_reclaimer(self, reclaim: Callable[[], None]) -> None:
        """Register ``reclaim``, which frees memory that is not in use.

        It is called on the engine's thread, between two forwards.
        """
        self._reclaimers.append(reclaim)

    def relieve(self) -> None:
        """Drop all memory that is not in use."""
        log.warning("Out of memory: dropping waiting components, idle prompts, LoRAs and weights.")
        for reclaim in self._reclaimers:
            reclaim()
        gc.collect()  # pipelines are in reference cycles
        self._memory.release()

    def run_with_retry(self, compute: Callable[[], Any]) -> Any:
        """Return what ``compute`` returns; if memory runs out, drop what is idle and repeat it."""
        try:
            return compute()
        except BaseException as error:
            if not is_out_of_memory(error):
                raise
            release_frames(error)
        self.relieve()
        return compute()

    def explain(self, error: BaseException, what: str, expected: int | None = None) -> None:
        """Add a note to ``error``, once: what ran out of memory, and how much memory there is.

        ``expected``: bytes that it takes, if known.
        """
        if hasattr(error, "__notes__"):
            return
        free, total = self._memory.free(), self._memory.total()
        note = f"This was {what}"
        if expected is not None:
            note += f", which takes about {_gb(expected)}"
        if free is not None and total is not None:
            note += f"; {_gb(free)} of {_gb(total)} are free"
        error.add_note(f"{note}. Use fewer pixels or frames, or a larger device.")


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
