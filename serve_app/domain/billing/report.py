"""What the GPUs cost, how busy they were, and what their work would cost elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from serve_app.domain.billing.price import Price, PriceUnit, Quantities

HOUR_S = Decimal(3600)


@dataclass(frozen=True, slots=True)
class ReplicaHours:
    """Time of the replicas of a pool on one class of GPU. It is sampled, see ``sample``."""

    pool: str
    gpu: str  # class; empty: none, or not known
    paid_s: Decimal  # sum over the replicas that were alive
    busy_s: Decimal  # of these, that ran a request


@dataclass(frozen=True, slots=True)
class MadeUnits:
    """What the requests of an endpoint have made that were computed and succeeded."""

    endpoint: str
    requests: int
    images: int
    megapixels: int
    units: Decimal  # seconds of video and audio, for endpoints that make these
    run_s: Decimal

    def cost(self, price: Price) -> Decimal:
        """What they would have cost by ``price``."""
        plays = price.unit is PriceUnit.SECOND
        quantities = Quantities(
            images=self.images,
            megapixels=self.megapixels,
            seconds=self.units if plays else Decimal(0),
            gpu_seconds=self.run_s,
            requests=self.requests,
        )
        return quantities.cost(price)


class CostBook(Protocol):
    """Times of replicas, and what was made in them, for all tenants."""

    async def replica_hours(self, since: datetime, until: datetime) -> Sequence[ReplicaHours]:
        """Times in whole hours that begin from ``since`` on, by pool and class of GPU."""
        ...

    async def made_units(self, since: datetime, until: datetime) -> Sequence[MadeUnits]:
        """What was made, by endpoint."""
        ...
