"""Verdicts of ``python -m benchmarks.gpu`` on the switches of recipes, on one card.

A verdict is about speed with random weights. What a switch does to images is for ``darkroom tune``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from deployments.replica.tuned import Machine
from deployments.tuning.variants import BENCHMARKED
from serve_app.domain.errors import Misconfigured
from serve_app.options.mistakes import mistakes_text

BENCHMARK = "`python -m benchmarks.gpu --out DIR`"


class BenchmarkMachine(BaseModel):
    card: str  # such as "NVIDIA H200"
    torch: str  # ``torch.__version__``
    tiny: bool = False  # with small models, to see that the benchmark works


class SwitchVerdict(BaseModel):
    verdict: Literal["on", "off", "undecided"]
    reason: str


class BenchmarkResults(BaseModel):
    """The parts of the benchmark's ``results.json`` that are read here."""

    machine: BenchmarkMachine
    verdicts: dict[str, SwitchVerdict]  # by switch


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Verdicts that hold on this machine."""

    off: Mapping[str, str] = field(default_factory=dict[str, str])  # reasons by switch
    unknown: tuple[str, ...] = ()  # switches of a newer benchmark


def read_verdicts(path: Path, here: Machine) -> Verdicts:
    """Verdicts of the file at ``path``. Raises ``Misconfigured`` if it cannot be read, is not such
    a file, or was measured with another card or torch than ``here``."""
    results = _read(path)
    measured = results.machine
    # The package of torch may lack what follows the plus sign in ``torch.__version__``.
    same_torch = here.torch in (measured.torch, measured.torch.partition("+")[0])
    if measured.tiny:
        raise Misconfigured(
            f"{path} was measured with --tiny, which says nothing of real models. Run {BENCHMARK} "
            "without it."
        )
    if measured.card != here.device or not same_torch:
        raise Misconfigured(
            f"{path} was measured on {measured.card} with torch {measured.torch}. This machine has "
            f"{here.device} with torch {here.torch}, where its verdicts need not hold. Run "
            f"{BENCHMARK} on this machine, and use its results.json."
        )
    return Verdicts(
        {
            name: entry.reason
            for name, entry in results.verdicts.items()
            if entry.verdict == "off" and name in BENCHMARKED
        },
        tuple(name for name in results.verdicts if name not in BENCHMARKED),
    )


def _read(path: Path) -> BenchmarkResults:
    advice = f"Use the results.json that {BENCHMARK} writes; if that is this file, run it again."
    try:
        return BenchmarkResults.model_validate_json(path.read_bytes())
    except OSError as error:
        raise Misconfigured(f"{path} cannot be read: {error.strerror}. {advice}") from None
    except ValidationError as error:
        mistakes = mistakes_text(BenchmarkResults, error)
        raise Misconfigured(
            f"{path} does not have the results of the GPU benchmark: {mistakes}. {advice}"
        ) from None
