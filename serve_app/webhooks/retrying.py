"""When a delivery is tried again."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.domain.webhook import Answer

JITTER = 0.2
"""A wait is longer by up to this share of it, so that what failed together does not return so."""


def again_after_s(
    answer: Answer, tries: int, waits_s: Sequence[float], chance: float
) -> float | None:
    """None: it is dead. ``tries`` were made, this one among them; ``chance`` is from 0 to 1.

    A receiver that asks for more time gets it; for less, it does not.
    """
    if answer.final or tries > len(waits_s):
        return None
    wait_s = waits_s[tries - 1] * (1 + JITTER * chance)
    return max(wait_s, answer.again_after_s or 0.0)
