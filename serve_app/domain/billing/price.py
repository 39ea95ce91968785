"""Prices of endpoints, and what a request costs by them.

Amounts of money are decimal numbers: binary ones would not add up to the same sum.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from typing import Any, ClassVar

from serve_app.domain.artifact import Artifact
from serve_app.domain.outcome import FRAMES, Outcome, Usage

CURRENCY = "USD"
"""Currency of a price that names none."""

MOST, DECIMALS = 10**9, 9

MEGAPIXEL = 1024 * 1024
"""Pixels of a megapixel that is billed: a square of 1024 is one, as at fal."""


class PriceUnit(StrEnum):
    """What is counted for a price."""

    IMAGE = "image"
    MEGAPIXEL = "megapixel"  # of each image, rounded up
    SECOND = "second"  # of video or audio
    GPU_SECOND = "gpu_second"  # of the attempt that succeeded
    REQUEST = "request"


@dataclass(frozen=True, slots=True)
class Price:
    """Price of one unit. It is fixed for a request when that is submitted.

    ``ValueError``: the amount is negative, or the currency is no code of ISO 4217, such as EUR.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}  # for those that read it from a file

    unit: PriceUnit
    amount: Decimal  # of money for one unit, at most 9 decimals
    currency: str = CURRENCY

    def __post_init__(self) -> None:
        if not 0 <= self.amount < MOST or self.amount != round(self.amount, DECIMALS):
            raise ValueError(
                f"the amount should be from 0 to {MOST - 1} with at most {DECIMALS} decimals"
            )
        if re.fullmatch(r"[A-Z]{3}", self.currency) is None:
            raise ValueError("the currency should be three letters, such as EUR")

    def to_json(self) -> dict[str, str]:
        """The price as it is stored; the amount is text, because JSON numbers are binary."""
        amount = f"{self.amount:f}"
        return {"unit": self.unit, "amount": amount, "currency": self.currency}

    @classmethod
    def from_json(cls, stored: Mapping[str, str]) -> Price:
        return cls(PriceUnit(stored["unit"]), Decimal(stored["amount"]), stored["currency"])


@dataclass(frozen=True, slots=True)
class Quantities:
    """What one request made, or is expected to make, in every unit that can have a price."""

    images: int = 0
    megapixels: int = 0  # each image's own, rounded up
    seconds: Decimal = Decimal(0)  # of video or audio
    gpu_seconds: Decimal = Decimal(0)
    requests: int = 1
    share: Decimal = Decimal(1)  # of the images' steps that were computed for it

    def of(self, unit: PriceUnit) -> Decimal:
        """Quantity in ``unit``."""
        return Decimal(
            {
                PriceUnit.IMAGE: self.images * self.share,
                PriceUnit.MEGAPIXEL: self.megapixels * self.share,
                PriceUnit.SECOND: self.seconds,
                PriceUnit.GPU_SECOND: self.gpu_seconds,
                PriceUnit.REQUEST: self.requests,
            }[unit]
        )

    def cost(self, price: Price) -> Decimal:
        """What they cost, in the price's currency."""
        return self.of(price.unit) * price.amount


NOTHING = Quantities(requests=0)
"""What a request that shares another one's outcome, or did not succeed, is billed for."""


ONE_FRAME = Quantities(images=1, megapixels=1)
"""What a realtime session makes at least, as far as is known when it begins."""


def made_by(outcome: Outcome) -> Quantities:
    """What an attempt that succeeded has made. Its units are seconds if it made other files than
    images."""
    images = [
        artifact for artifact in outcome.artifacts if artifact.media_type.startswith("image/")
    ]
    seconds = outcome.usage.units if len(images) < len(outcome.artifacts) else 0.0
    return _quantities_of(images, seconds, outcome.usage)


def made_by_session(outcome: Outcome) -> Quantities:
    """What a realtime session has made beside its frames, which are requests of their own. One of
    an app has none, and is a request itself."""
    quantities = made_by(outcome)
    return replace(quantities, requests=0) if FRAMES in (outcome.output or {}) else quantities


def _quantities_of(images: Sequence[Artifact], seconds: float, usage: Usage) -> Quantities:
    megapixels = sum(
        rounded_megapixels((image.width or 0) * (image.height or 0)) for image in images
    )
    share = decimal_of(usage.share).normalize()  # amounts get no zeros
    return Quantities(
        len(images), megapixels, decimal_of(seconds), decimal_of(usage.run_s), share=share
    )


def made_by_frame(usage: Usage) -> Quantities:
    """What a frame of a realtime session has made: one image. ``units`` are its megapixels."""
    return Quantities(
        images=1,
        megapixels=rounded_megapixels(usage.units * 1e6),
        gpu_seconds=decimal_of(usage.run_s),
    )


def rounded_megapixels(pixels: float) -> int:
    """Megapixels that an image is billed for: rounded up, at least 1."""
    return max(1, math.ceil(pixels / MEGAPIXEL))


def decimal_of(value: float) -> Decimal:
    """A measured or computed quantity, as it is billed and reserved. The last digits of a binary
    number are those of its arithmetic: the mean of three times 0.4 is no 0.4."""
    return Decimal(str(round(value, 6)))
