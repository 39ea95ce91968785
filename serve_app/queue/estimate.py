"""When a queued request should start. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from serve_app.domain.progress import Progress, Stage

OVERDUE = 0.1
"""What runs longer than expected is taken to run on for a tenth of the time that it has."""

ROUNDS = 8  # per slot: the last ones are counted singly, those before them in one go


NOT_BEGUN = frozenset(
    {Stage.FETCHING, Stage.DOWNLOADING, Stage.LOADING, Stage.COMPILING, Stage.WARMING_UP}
)
"""Stages before that which is expected: weights are there nearly always."""


def remains_s(expected_s: float, elapsed_s: float, progress: Progress | None = None) -> float:
    """Of what began ``elapsed_s`` ago; never 0. A download lasts as long as its rate says; of the
    other stages before the generation nobody knows, and they count nothing."""
    if progress is not None and progress.stage in NOT_BEGUN:
        downloads = progress.stage is Stage.DOWNLOADING
        return expected_s + ((progress.left_s or 0.0) if downloads else 0.0)
    return max(expected_s - elapsed_s, OVERDUE * elapsed_s, 0.001)


def until_start_s(ahead: int, ahead_s: float, free_in_s: Sequence[float]) -> float | None:
    """Seconds until a request starts that has ``ahead`` others before it, which take ``ahead_s``
    of a slot together. ``free_in_s``: for each slot, until it is free. None without slots."""
    slots = [*free_in_s]
    if not slots:
        return None
    each_s = ahead_s / ahead if ahead else 0.0
    rounds = max(0, ahead // len(slots) - ROUNDS)
    heapq.heapify(slots)
    for _ in range(ahead - rounds * len(slots)):
        heapq.heapreplace(slots, slots[0] + each_s)
    return slots[0] + rounds * each_s
