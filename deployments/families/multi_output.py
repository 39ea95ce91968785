"""A request for several outputs, made by one generation or by several. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deployments.family import Product
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.lease import Lease

SEEDS_END = 2**64  # torch's


@dataclass(frozen=True, slots=True)
class Part:
    """What one generation makes of a request."""

    input: Mapping[str, Any]
    tickets: tuple[UploadTicket, ...]


def seeds_of(input: Mapping[str, Any], seed: int) -> list[int]:
    """One for each output: the input's ``seeds``, or its ``seed`` and those that follow, so that
    the first of four is the one that is made alone. ``seed`` is for inputs that have none."""
    if (given := input.get("seeds")) is not None:
        return [int(each) for each in given]
    own = input.get("seed")
    first = seed if own is None else int(own)
    count = int(input.get("num_images") or 1)
    return [_within(first + number) for number in range(count)]


def parts_of(lease: Lease, seed: int, *, together: bool = False) -> Sequence[Part]:
    """Clips and sounds of ``seeds`` come each out of a call that is the one of a request with its
    seed, and so do pictures of a request to run alone; else pictures come out of one call together.

    ``together``: pictures do in any case, as a snapshot is there of a call that makes them all.
    """
    asked, tickets = lease.input, lease.upload_tickets
    apart = "num_images" not in asked or (lease.alone and not together)
    if asked.get("seeds") is None or not apart:
        return (Part(asked, tickets),)
    seeds = seeds_of(asked, seed)
    single = {**asked, "seeds": None} | ({"num_images": 1} if "num_images" in asked else {})
    each = len(tickets) // len(seeds)
    return tuple(
        Part(single | {"seed": own}, tickets[number * each : (number + 1) * each])
        for number, own in enumerate(seeds)
    )


def joined(products: Sequence[Product], seeds: Sequence[int] | None) -> Product:
    """One product of those of the parts, in their order. ``seeds``: those that were asked for.

    Lists are lined up. Of a file that stands alone, such as ``video``, the first stays where it is,
    and all are in a list beside it, ``videos``.
    """
    first = products[0]
    output = dict(first.output)
    for name, value in first.output.items():
        values = [each.output[name] for each in products]
        if isinstance(value, list):
            output[name] = [one for each in values for one in each]
        elif isinstance(value, Mapping) and "artifact" in value and seeds is not None:
            output[f"{name}s"] = values
    if len(products) > 1 and "timings" in output:
        spent = sum(each.output["timings"]["inference"] for each in products)
        output["timings"] = {"inference": round(spent, 4)}
    if seeds is not None:
        output["seeds"] = list(seeds)
    files = [file for each in products for file in each.files]
    return replace(first, output=output, files=files, units=sum(each.units for each in products))


def _within(seed: int) -> int:
    """The one after the last is the first that is not negative."""
    return seed - SEEDS_END if seed >= SEEDS_END else seed
