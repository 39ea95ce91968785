"""What the clients ask for: images of other prompts, seeds and step counts.

Standard library only, because the servers of others read it in environments of their own.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

SIDE = 256  # pixels: what the demo models were trained with
PROMPTS = (
    "a red circle",
    "a small blue square",
    "a green star above a pink heart",
    "a cyan disc on a yellow background",
    "two purple triangles",
    "an orange heart to the left of a blue star",
)


@dataclass(frozen=True)
class Wish:
    """One image."""

    model: str  # flux or sdxl
    prompt: str
    steps: int
    seed: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, body: Mapping[str, Any]) -> Wish:
        return cls(str(body["model"]), str(body["prompt"]), int(body["steps"]), int(body["seed"]))


def wishes(model: str, count: int, steps: Sequence[int]) -> list[Wish]:
    """The same at every call. Each of ``steps`` is asked for equally often, in no order."""
    drawn = [
        Wish(model, PROMPTS[number % len(PROMPTS)], steps[number % len(steps)], number)
        for number in range(count)
    ]
    random.Random(count).shuffle(drawn)
    return drawn
