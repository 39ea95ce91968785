"""Shadow: copies of some requests go to another endpoint, so that an operator can compare the two.

A copy is a request of its own, of a tenant that no key can have. So nothing of it is in what its
original's tenant sees, is limited by, or pays for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol

from serve_app.domain.executors.fallback import FallbackBudget
from serve_app.domain.request import Request

SHADOW_TENANT = ":shadow"
"""Tenant of all copies. The name of a tenant of an installation has no colon."""
LANE_WEIGHT = 0.01
"""Weight of the copies' lane: while others wait, they get a hundredth of what a tenant gets."""
MAX_AGE_S = 3600.0
"""Time after its submit in which a request is copied. Later, its copy is skipped."""
LINGER_S = 600.0
"""Time after the deletion of an original in which a copy may still be stored by a worker that stood
still. Until then, it is looked for."""


def is_chosen(request_id: str, endpoint: str, share: float) -> bool:
    """Return whether a request is one of the ``share`` that is copied. It depends on nothing but
    these, so the answer is the same each time."""
    hashed = hashlib.sha256(f"{request_id} {endpoint}".encode()).digest()
    return int.from_bytes(hashed[:8], "big") < share * 2.0**64


class ShadowState(StrEnum):
    """What became of the copy of a request."""

    WAITING = "waiting"  # it is not paid for
    SENDING = "sending"  # it is within its budget, and may be stored
    SENT = "sent"  # it is stored
    SKIPPED = "skipped"  # it is never stored


@dataclass(frozen=True, slots=True)
class ShadowCandidate:
    """A request of which a copy is to be stored."""

    original: str
    tenant: str  # of the original
    endpoint: str
    target: str  # endpoint of the copy
    state: ShadowState  # ``WAITING`` or ``SENDING``
    input: Mapping[str, Any]
    age_s: float  # since the submit of the original


@dataclass(frozen=True, slots=True)
class UnwantedCopy:
    """A copy whose original was deleted."""

    id: str
    active: bool  # it has not ended


@dataclass(frozen=True, slots=True)
class ShadowSide:
    """One of the two requests of a pair."""

    request: Request
    amount: Decimal | None  # as it was billed; None: it has no price, or has not ended
    currency: str


@dataclass(frozen=True, slots=True)
class ShadowPair:
    """A request and its copy."""

    original: str
    endpoint: str
    target: str
    state: ShadowState
    reason: str  # why it is skipped
    first: ShadowSide | None  # the original
    second: ShadowSide | None  # the copy; None: it is not stored, or was deleted


@dataclass(frozen=True, slots=True)
class ShadowSums:
    """Sums of the pairs of two endpoints that ended in the last day. Each tuple is of the originals
    and of the copies."""

    endpoint: str
    target: str
    pairs: int
    failed: tuple[int, int]
    median_s: tuple[float | None, float | None]  # of those that succeeded, on a replica
    amounts: tuple[Decimal, Decimal]
    currencies: tuple[str, str]


class ShadowBook(Protocol):
    """Which requests are copied, and their copies. A request is noted with its insert, by
    ``NewRequest.shadow``."""

    async def candidates(self, most: int) -> Sequence[ShadowCandidate]:
        """Requests whose copies are to be stored, the oldest first; ``most`` of each target. Those
        of a target that is paused or drained wait."""
        ...

    async def running(self) -> Mapping[str, int]:
        """Copies that run, by endpoint."""
        ...

    async def take(self, original: str, budget: FallbackBudget | None, cost: Decimal) -> bool:
        """Count the cost of a copy once and let it be stored. False: the budget does not cover it,
        and it is skipped; or it is not wanted any more."""
        ...

    async def mark_sent(self, candidate: ShadowCandidate, copy: str) -> bool:
        """Record that a copy is stored. False: it was recorded before, or it is not wanted any more
        and has a job that deletes it."""
        ...

    async def skip(self, original: str, reason: str) -> None:
        """Record that a request gets no copy."""
        ...

    async def find_copy(self, original: str, target: str, copy: str | None) -> UnwantedCopy | None:
        """What is left of a copy, whose id may be unknown."""
        ...

    async def page(
        self, endpoint: str | None, before: str | None, limit: int
    ) -> Sequence[ShadowPair]:
        """Pairs, the newest original first. ``endpoint``: of the originals; None: of all."""
        ...

    async def sums(self) -> Sequence[ShadowSums]:
        """Sums of the last day by endpoint and target."""
        ...
