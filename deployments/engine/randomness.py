"""torch's global random state, for the few pipelines that draw from it beside their generator.

diffusers' own rule is that a generator decides all. These encode a picture without handing theirs
on, so what they draw depends on whoever drew before. Inside the engine each generation has a global
state of its own, seeded as its generator: the same seed gives the same, whatever runs beside it.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


class Randomness:
    """Of one generation. Nothing is done for pipelines that are not declared to draw globally (the
    conformance runs found those: with the same generator, plain calls differ when the global state
    does): a state that changes hands is taken from under other threads, and costs some microseconds
    a turn."""

    def __init__(self, seed: int | None = None, device: str = "cpu") -> None:
        """``seed``: None for the state that all share."""
        self._seed = seed
        self._device = device
        self._states: list[torch.Tensor] = []  # while it is suspended; of each generator

    @classmethod
    def of(cls, arguments: Mapping[str, Any], device: str) -> Randomness:
        """For a call that draws globally. Without a generator nobody has asked for the same
        again."""
        given = arguments.get("generator")
        first = next(iter(given), None) if isinstance(given, list | tuple) else given
        if not isinstance(first, torch.Generator):
            return cls()
        return cls(first.initial_seed(), device)

    @contextmanager
    def in_place(self) -> Generator[None]:
        """It holds inside, and the state that all share outside."""
        if self._seed is None:
            yield
            return
        globals_ = _global_generators(self._device)
        outside = [each.get_state() for each in globals_]
        for number, each in enumerate(globals_):
            if self._states:
                each.set_state(self._states[number])
            else:
                each.manual_seed(self._seed)
        try:
            yield
        finally:
            self._states = [each.get_state() for each in globals_]
            for each, state in zip(globals_, outside, strict=True):
                each.set_state(state)


def _global_generators(device: str) -> list[torch.Generator]:
    generators = [torch.default_generator]
    if device.startswith("cuda"):
        at = int(device.partition(":")[2] or torch.cuda.current_device())
        generators.append(torch.cuda.default_generators[at])
    return generators
