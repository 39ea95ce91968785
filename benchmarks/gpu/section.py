"""Sections of the two plans, without torch: the process that watches over them does not need it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.gpu.bench import Bench

Facts = Mapping[str, Any]

MINUTES = {"A": 8.5, "B": 4.0}
"""Limit of each plan. A quarter of an hour leaves 2.5 minutes for two starts of a machine."""

START_MINUTES = 0.3
"""Of a plan's limit: starts of the process, imports, and weights of FLUX that are made once."""

ENGINE = ("diffusers", "transformers", "accelerate", "safetensors", "greenlet", "peft", "psutil")
TESTS = (*ENGINE, "pytest", "PIL")


@dataclass(frozen=True, slots=True)
class Section:
    """Measurements of one question. ``run`` yields figures; it is ended at the limit of time."""

    name: str
    run: Callable[[Bench], Iterator[Facts]]
    seconds: float  # limit; figures that are there by then are kept
    plan: str = "A"
    needs: tuple[str, ...] = ENGINE  # packages beside torch
    on_gpu: bool = False  # says nothing on a CPU
    spoils: bool = False  # what is left of it may disturb the next one, so its process ends


def sections() -> tuple[Section, ...]:
    """In the order of their worth, for when time runs out."""
    return (
        _section("machine", "device", 15, needs=("psutil",)),
        _section("failed_recording", "device", 10, on_gpu=True, spoils=True),
        _section("attention", "attention", 15, needs=()),
        _section("alone_and_merged", "flux", 40),
        _section("eight_bits", "flux", 120),
        _section("loras", "sdxl", 30),
        _section("warm_to_hot", "memory", 30),
        _section("wan_14b_step", "wan", 45),
        _section("graphs", "sdxl", 100),
        _section("tests_graphs", "tests", 40, needs=TESTS),
        _section("in_turns", "memory", 25),
        _section("copies_beside_forwards", "memory", 8),
        _section("compiled", "flux", 85, plan="B"),
        _section("tests_merging", "tests", 75, plan="B", needs=TESTS),
        _section("forward_by_rows", "flux", 10, plan="B"),
        _section("out_of_memory", "flux", 12, plan="B", on_gpu=True),
        _section("decode", "decode", 40, plan="B"),
    )


def _section(name: str, module: str, seconds: float, **more: Any) -> Section:
    """Section whose function has its name; the module is imported when it runs."""

    def run(bench: Bench) -> Iterator[Facts]:
        return getattr(import_module(f"benchmarks.gpu.{module}_sections"), name)(bench)

    return Section(name, run, seconds, **more)
