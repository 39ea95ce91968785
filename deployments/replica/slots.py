"""Slots of a replica: how many a lease poll offers, and which attempt takes the next free one.

An attempt holds a slot while it loads weights or is in the engine. It holds none while the files
that its input names are fetched, so a slow file server keeps nobody else from computing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from deployments.replica.attempt_state import AttemptState, Phase
from serve_app.domain.lease import Lease, LeaseKey

MIN_FETCHES = 2  # of a tenant, on a replica with one slot
TENANTS_FETCHING = 4
"""Tenants that can have their share of fetches at once. Further fetches take slots, which bounds
the memory for fetched files."""


class SlotUser(Protocol):
    """What decides about slots: part of an ``Attempt``."""

    lease: Lease
    state: AttemptState


@dataclass(frozen=True, slots=True)
class SlotOffer:
    """Offer of a lease poll. ``full_tenants`` have their share of fetches on this replica."""

    slots: int
    full_tenants: tuple[str, ...] = ()


def max_fetches(slots: int) -> int:
    """Largest number of requests of one tenant whose files a replica fetches at once."""
    return max(slots, MIN_FETCHES)


def slot_offer(slots: int, attempts: Collection[SlotUser]) -> SlotOffer:
    """Offer of a replica with ``slots``. Pure.

    Attempts that only encode or upload free their slot, up to the number of slots again. So do
    attempts whose weights are downloaded, because loaded models can use the slot, and attempts
    whose files are fetched, up to ``max_fetches`` of each of ``TENANTS_FETCHING`` tenants.
    """
    # An ingress of the previous version leases work for models that are being downloaded.
    downloading = min(2 * slots, sum(each.state.is_downloading for each in attempts))
    fetches = Counter(each.lease.tenant for each in attempts if each.state.is_fetching)
    share = max_fetches(slots)
    without_slot = downloading + min(TENANTS_FETCHING * share, fetches.total())
    in_engine = sum(each.state.needs_engine for each in attempts) - without_slot
    free = max(0, min(slots - in_engine, 2 * slots - (len(attempts) - without_slot)))
    # All leases of one poll may be of the same tenant.
    left_of_share = share - max((n for n in fetches.values() if n < share), default=0)
    full = tuple(sorted(tenant for tenant, n in fetches.items() if n >= share))
    return SlotOffer(min(free, left_of_share), full)


class SlotQueue:
    """Attempts that wait for a slot: their files were fetched while others took all slots. Use on
    one event loop."""

    def __init__(self, slots: int, attempts: Mapping[LeaseKey, SlotUser]) -> None:
        self._slots = slots
        self._attempts = attempts
        self._waiting: list[tuple[SlotUser, asyncio.Future[None]]] = []

    async def take(self, attempt: SlotUser) -> None:
        """Wait for a slot and take it. Does not yield to the event loop if one is free."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = attempt, turn
        self._waiting.append(entry)
        self.wake()
        if turn.done():
            return
        try:
            await turn
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    def wake(self) -> None:
        """Give free slots to waiting attempts: by priority, then in the order of their arrival."""
        while self._waiting and self._free():
            entry = max(self._waiting, key=lambda each: int(each[0].lease.priority))
            self._waiting.remove(entry)
            attempt, turn = entry
            if not turn.done():  # else its attempt was stopped
                attempt.state.enter(Phase.LOADING)
                turn.set_result(None)

    def _free(self) -> bool:
        return sum(each.state.holds_slot for each in self._attempts.values()) < self._slots
