"""What is done and told when the device's memory has run out."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable

from deployments.engine.device_memory import DeviceMemory

log = logging.getLogger(__name__)


class Shortage:
    """For the engine's thread, but for ``may_drop``."""

    def __init__(self, memory: DeviceMemory) -> None:
        self._memory = memory
        self._drops: list[Callable[[], None]] = []

    def may_drop(self, drop: Callable[[], None]) -> None:
        """``drop``: lets go of what nobody uses at the moment. It is called on the engine's
        thread, between two forwards."""
        self._drops.append(drop)

    def relieve(self) -> None:
        """Drop all that nobody uses."""
        log.warning("Memory has run out: what is idle is dropped (prompts, adapters, weights).")
        for drop in self._drops:
            drop()
        gc.collect()  # pipelines are in circles of references
        self._memory.release()

    def explain(self, error: BaseException, what: str, expected: int | None = None) -> None:
        """Add to ``error``, once, who ran out of memory and how much there is. ``expected``: bytes
        that it takes, where that is known."""
        if hasattr(error, "__notes__"):
            return
        free, total = self._memory.free(), self._memory.total()
        told = f"This was {what}"
        if expected is not None:
            told += f", which takes about {_gb(expected)}"
        if free is not None and total is not None:
            told += f"; {_gb(free)} of {_gb(total)} are free"
        error.add_note(f"{told}. Ask for fewer pixels or frames, or for a larger device.")


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
