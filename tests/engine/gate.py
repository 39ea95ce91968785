"""Generations that meet, however slow the machine is."""

from __future__ import annotations

import threading
from typing import Any, Unpack

from deployments.engine.accelerator.interface import Accelerator
from deployments.engine.engine import Engine
from deployments.engine.loop.options import EngineKeywords, GenerationOptions


def merging_engine(
    pipeline: Any = None, device: str | Accelerator = "cpu", **options: Unpack[EngineKeywords]
) -> Engine:
    """Engine that merges all it may: its clock stands still, so no forward is too slow for more
    rows, and no generation waits so long that it goes before those it would meet."""
    keywords: EngineKeywords = {"limit_rows": False, **options}
    return Engine(pipeline, device, monotonic=lambda: 0.0, **keywords)


class Gate:
    """Holds an engine's thread, so that what is submitted meanwhile is all there when it goes on.

    Closed when it is made: the engine's thread stands in it, and takes nothing up.
    """

    def __init__(self, engine: Engine) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()
        self._engine = engine
        name = f"gate {id(self)}"
        engine.add(name, self._wait)
        self._generation = engine.submit(pipeline=name, options=GenerationOptions(priority=100))
        assert self._reached.wait(60)

    def open(self) -> None:
        """Let the engine go on, once the files of all LoRAs have been looked at.

        A thread of its own does that, in their order. LoRAs that are not loaded yet delay their
        generations all the same.
        """
        self._engine._loras._loader.submit(lambda: None).result(60)
        self._opened.set()
        self._generation.result(60)

    def _wait(self) -> None:
        self._reached.set()
        assert self._opened.wait(60)
