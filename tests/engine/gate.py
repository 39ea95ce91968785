"""Generations that meet, however slow the machine is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Unpack

import torch

from deployments.engine.accelerator.interface import Accelerator
from deployments.engine.engine import Engine
from deployments.engine.loop.generation import Generation
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

    def open(self, loaded: Iterable[Generation] = ()) -> None:
        """Let the engine go on, once the files of all LoRAs have been looked at, and those of
        ``loaded`` are loaded, each as far as there is space.

        A thread of its own does that, in their order. Other LoRAs that are not loaded yet delay
        their generations.
        """
        self._loader_is_idle()
        for generation in loaded:
            if generation._loras is not None:
                # The engine's own thread asks this otherwise, and stands in the gate.
                generation._loras.ready()
        self._loader_is_idle()
        self._opened.set()
        self._generation.result(60)

    def _loader_is_idle(self) -> None:
        self._engine._loras._loader.submit(lambda: None).result(60)

    def _wait(self) -> None:
        self._reached.set()
        assert self._opened.wait(60)


class NotMerged(AssertionError):
    """Calls that were to share forwards, and did not."""


def together(engine: Engine, calls: Iterable[Mapping[str, Any]], within_s: float = 60) -> list[Any]:
    """Return the results of calls that are all there when the engine goes on."""
    gate = Gate(engine)
    running = [engine.submit(**call) for call in calls]
    gate.open(running)
    return [generation.result(within_s) for generation in running]


def run_merged(
    engine: Engine,
    calls: Sequence[Mapping[str, Any]],
    within_s: float = 60,
    *,
    first: bool = True,
) -> tuple[list[Any], float, dict[int, int]]:
    """Run calls that share their forwards: return results, seconds, and forwards by size.

    ``first``: one is run alone before, as the engine runs the first generation of a pipeline in one
    piece, until it knows its denoiser. Raises ``NotMerged`` unless a forward had a row of each.
    """
    if first:
        engine.submit(**_with_own_generator(calls[0])).result(within_s)
    before = engine.counts()["batch_sizes"]
    began = time.perf_counter()
    results = together(engine, calls, within_s)
    took_s = time.perf_counter() - began
    counts = engine.counts()
    sizes = {
        size: more
        for size, count in counts["batch_sizes"].items()
        if (more := count - before.get(size, 0))
    }
    if max(sizes, default=0) < len(calls):
        raise NotMerged(
            f"{len(calls)} calls ran in forwards of {sizes} calls. Reasons of those that ran "
            f"alone: {counts['not_merged']}."
        )
    return results, took_s, sizes


def _with_own_generator(call: Mapping[str, Any]) -> dict[str, Any]:
    generator = call.get("generator")
    if not isinstance(generator, torch.Generator):
        return dict(call)
    return {**call, "generator": generator.clone_state()}
