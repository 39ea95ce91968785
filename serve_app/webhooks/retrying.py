"""Delay before the next try of a webhook."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.domain.webhook import ReceiverResponse

JITTER = 0.2
"""Maximum fraction that is added to a delay, so that deliveries that failed together spread out."""


def retry_delay_s(
    answer: ReceiverResponse, tries: int, waits_s: Sequence[float], chance: float
) -> float | None:
    """Seconds until the next try; None if the delivery is dead.

    ``tries`` counts this one. ``chance`` is a random number from 0 to 1. A receiver can make the
    delay longer, but not shorter.
    """
    if answer.final or tries > len(waits_s):
        return None
    wait_s = waits_s[tries - 1] * (1 + JITTER * chance)
    return max(wait_s, answer.again_after_s or 0.0)
