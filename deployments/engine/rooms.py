"""Room on the device for weights that are about to come, beside generations that run.

Whoever loads asks, on a thread of its own, and the engine grants it when what those that run are
still expected to take leaves so much. Until the weights are there, no other generation begins.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

from deployments.engine.device_memory import DeviceMemory, Taken


class CommonMemory:
    """The device's, as generations see it: what is set aside is not free."""

    def __init__(self, memory: DeviceMemory) -> None:
        self._memory = memory
        self._rooms = 0  # that were granted until now
        self.set_aside = 0  # bytes

    def free(self) -> int | None:
        free = self._memory.free()
        return None if free is None else max(0, free - self.set_aside)

    def total(self) -> int | None:
        return self._memory.total()

    @contextmanager
    def measured(self) -> Generator[Taken]:
        rooms = self._rooms
        with self._memory.measured() as taken:
            yield taken
        taken.sure = not self.set_aside and rooms == self._rooms

    def release(self) -> None:
        self._memory.release()

    def grant(self, size: int) -> None:
        self._rooms += 1
        self.set_aside += size


class Room:
    """Of ``size`` bytes. ``granted`` once it is set aside."""

    def __init__(self, size: int, tell: Callable[[], None], *, alone: bool) -> None:
        self.size = size
        self.tell = tell
        self.alone = alone
        self.granted = False


class Rooms:
    """``give`` and ``give_all`` are for the engine's thread, the rest for any."""

    def __init__(
        self, memory: CommonMemory, relieve: Callable[[], None], wake: Callable[[], None]
    ) -> None:
        """``relieve``: drops what nobody uses. ``wake``: lets the engine look around."""
        self._memory = memory
        self._relieve = relieve
        self._wake = wake
        self._lock = threading.Lock()
        self._waiting: list[Room] = []
        self._taken: list[Room] = []

    def ask(self, size: int, tell: Callable[[], None], *, alone: bool) -> Room:
        """``tell`` is called, on the engine's thread, when it is granted; it must be quick.
        ``alone``: not before nobody runs and all that is idle was dropped."""
        room = Room(size, tell, alone=alone)
        if self._memory.free() is None:  # nobody counts
            room.granted = True
            return room
        with self._lock:
            self._waiting.append(room)
        self._wake()
        return room

    def let_go(self, room: Room) -> None:
        """The weights are there, or will not come. Nothing happens the second time."""
        with self._lock:
            if room in self._waiting:
                self._waiting.remove(room)
            if room in self._taken:
                self._taken.remove(room)
                self._memory.set_aside -= room.size
        self._wake()

    @property
    def asked(self) -> bool:
        """Whether one is waited for."""
        return bool(self._waiting)

    @property
    def wanted(self) -> bool:
        """Whether one is waited for, or weights are on their way into it."""
        return bool(self._waiting or self._taken)

    def give(self, fits: Callable[[int], bool], *, nobody_goes: bool) -> None:
        """Grant what can be granted. ``fits``: whether so many bytes are free beside what those
        that run are expected to take. When nobody goes on, nothing would make more room."""
        for room in [*self._waiting]:
            if not (nobody_goes or (not room.alone and fits(room.size))):
                return
            if room.alone:
                self._relieve()
            self._grant(room)

    def give_all(self) -> None:
        """The engine has ended: nobody needs the memory more."""
        for room in [*self._waiting]:
            self._grant(room)

    def _grant(self, room: Room) -> None:
        with self._lock:
            if room not in self._waiting:  # it was let go meanwhile
                return
            self._waiting.remove(room)
            self._taken.append(room)
            self._memory.grant(room.size)
            room.granted = True
        room.tell()
