"""Tenants of many sizes, and the cell in which a router puts each."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

Place = Callable[[Sequence[float], int], Sequence[int]]
"""Cell of each tenant, by their rates and the number of cells."""


def sizes(tenants: int, total: float, exponent: float = 1.0) -> Sequence[float]:
    """Rates of tenants, the largest first, by Zipf's law: few are large, most are small."""
    weights = [1 / (rank + 1) ** exponent for rank in range(tenants)]
    return [total * weight / sum(weights) for weight in weights]


def place_by_hash(rates: Sequence[float], cells: int) -> Sequence[int]:
    """By the tenant's name alone: needs no table, and knows no size."""
    return [
        max(range(cells), key=lambda cell: _score(tenant, cell)) for tenant in range(len(rates))
    ]


def place_by_size(rates: Sequence[float], cells: int) -> Sequence[int]:
    """The largest first, each into the cell with the least: needs a table."""
    loads = [0.0] * cells
    places: list[int] = []
    for rate in sorted(rates, reverse=True):
        cell = min(range(cells), key=loads.__getitem__)
        loads[cell] += rate
        places.append(cell)
    return places


def split_large(rates: Sequence[float], cells: int) -> Sequence[float]:
    """Rates of the parts of tenants. One that is larger than half of a cell is several equal parts,
    each with its share of the tenant's limits."""
    most = sum(rates) / cells / 2
    pieces: list[float] = []
    for rate in rates:
        parts = max(1, math.ceil(rate / most))
        pieces += [rate / parts] * parts
    return pieces


def loads(rates: Sequence[float], cell_of: Sequence[int], cells: int) -> Sequence[float]:
    """Rate of each cell."""
    totals = [0.0] * cells
    for rate, cell in zip(rates, cell_of, strict=True):
        totals[cell] += rate
    return totals


def _score(tenant: int, cell: int) -> bytes:
    return hashlib.sha256(f"tenant-{tenant}/{cell}".encode()).digest()
