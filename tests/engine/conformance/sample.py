"""Which cases a run of the tests takes: a few at random, and always some of the big families."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tests.engine.conformance.case import Case

#: One class of each is in every sample.
ALWAYS = ("flux", "sd", "sdxl", "wan", "audio")


def sample(cases: Sequence[Case], seed: int, size: int) -> list[Case]:
    """``size`` of ``cases``, in their order; the same for the same seed."""
    dice = random.Random(seed)  # noqa: S311 - not for secrets
    chosen = {
        dice.choice([case.title for case in cases if case.family == family]) for family in ALWAYS
    }
    rest = [case.title for case in cases if case.title not in chosen]
    chosen.update(dice.sample(rest, min(size - len(chosen), len(rest))))
    return [case for case in cases if case.title in chosen]
