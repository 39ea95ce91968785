"""Sections of the benchmark, without torch: the process that watches over them does not need it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.gpu.bench import Bench

Facts = Mapping[str, Any]

MINUTES = 9.0
"""Limit of a run. A machine is lent for ten minutes at a time."""

ENGINE = ("diffusers", "transformers", "accelerate", "safetensors", "greenlet", "peft", "psutil")
MODELS = ("diffusers", "transformers", "safetensors")


@dataclass(frozen=True, slots=True)
class Section:
    """Measurements of one question. ``run`` yields figures; it is ended at the limit of time."""

    name: str
    run: Callable[[Bench], Iterator[Facts]]
    minutes: float  # limit; figures that are there by then are kept
    part: int = 1
    needs: tuple[str, ...] = ()  # packages beside torch
    on_gpu: bool = False  # says nothing on a CPU


def sections() -> tuple[Section, ...]:
    """In the order of their worth, for when time runs out.

    The limits of a part leave time in ``MINUTES`` for starts of the process.
    """
    return (
        _section("machine", "device", 0.3, needs=("psutil",)),
        _section("forward_by_rows", "engine", 1.2, needs=MODELS),
        _section("whole_flux", "whole", 0.8, needs=ENGINE),
        _section("whole_flux_8_bits", "whole", 2.3, needs=ENGINE),
        _section("alone_and_merged", "engine", 0.7, needs=ENGINE),
        _section("copies_beside_forwards", "device", 0.6, needs=ENGINE),
        _section("out_of_memory", "engine", 0.8, needs=ENGINE, on_gpu=True),
        _section("scaled_products", "device", 0.3),
        _section("decode", "device", 0.5, needs=MODELS),
        _section("pinned_memory", "device", 0.4, needs=("psutil",), on_gpu=True),
        _section("warm_to_hot", "loading", 0.7, part=2, needs=ENGINE),
        _section("compiled_blocks", "engine", 2.5, part=2, needs=ENGINE),
        _section("whole_sdxl", "whole", 0.8, part=2, needs=ENGINE),
        _section("load_safetensors", "loading", 1.2, part=2, needs=ENGINE),
        _section("sdxl_by_step", "second", 1.0, part=2, needs=MODELS),
        _section("graphs", "engine", 0.9, part=2, needs=ENGINE),
        _section("wan_14b_step", "second", 0.9, part=2, needs=MODELS),
    )


def _section(name: str, module: str, minutes: float, **more: Any) -> Section:
    """Section whose function has its name; the module is imported when it runs."""

    def run(bench: Bench) -> Iterator[Facts]:
        return getattr(import_module(f"benchmarks.gpu.{module}_sections"), name)(bench)

    return Section(name, run, minutes, **more)
