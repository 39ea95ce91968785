"""The header that says what a request may cost at most. It is refused before it is queued."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from serve_app.catalog.known_cost import KnownCost
from serve_app.domain.errors import FieldProblem, InvalidInput

HEADER = "X-Darkroom-Max-Cost"
ERROR_TYPE = "max_cost"
_AMOUNT = re.compile(rb"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)(?:\s+([A-Z]{3}))?\s*")


@dataclass(frozen=True, slots=True)
class MaxCost:
    """Most money that a request may cost. ``currency`` empty: that of the endpoint's price."""

    amount: Decimal
    currency: str = ""

    def __str__(self) -> str:
        return f"{self.amount:f} {self.currency}".rstrip()


def parse_max_cost(value: bytes) -> MaxCost:
    """Read the header. ``InvalidInput`` names it."""
    match = _AMOUNT.fullmatch(value)
    if match is None:
        raise header_error("should be an amount, such as `0.05` or `0.05 EUR`")
    amount, currency = match.groups()
    return MaxCost(Decimal(amount.decode("ascii")), (currency or b"").decode("ascii"))


def require_no_limit(headers: Mapping[str, str]) -> None:
    """Raise ``InvalidInput`` for a realtime session with the header, which it could not keep."""
    if HEADER.lower() in headers:
        raise header_error(
            "is for requests: what a session costs depends on what is sent in it. Connect without "
            "it; a budget of the tenant limits sessions"
        )


def refusal_of(cost: KnownCost, most: MaxCost) -> str:
    """Why a request with this cost is refused, as a clause; empty: it is not."""
    if cost.unknown:
        return (
            f"what this request costs is not known before it runs: {cost.unknown}. Send it "
            f"without {HEADER}, or ask the operator for a price by request"
        )
    if most.currency and cost.currency and most.currency != cost.currency:
        return f"its price is in {cost.currency}. Give the amount in {cost.currency}"
    if cost.amount > most.amount:
        return f"this request costs {cost.amount.normalize():f} {cost.currency}"
    return ""


def header_error(what: str) -> InvalidInput:
    """Error of the header."""
    problem = FieldProblem(("header", HEADER), f"{HEADER} {what}", ERROR_TYPE)
    return InvalidInput(f"The header {HEADER} {what}.", (problem,))
