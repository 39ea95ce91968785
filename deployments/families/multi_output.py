"""Splitting of a request with several outputs into generations, and merging of their results. Pure
functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deployments.families.base import Product
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.lease import Lease
from serve_app.domain.media.draft import DRAFT

SEEDS_END = 2**64  # torch takes seeds below this


@dataclass(frozen=True, slots=True)
class OutputPart:
    """The share of a request that one generation makes."""

    input: Mapping[str, Any]
    tickets: tuple[UploadTicket, ...]
    draft: Mapping[str, Any] | None = None  # the field of the request, if this is a draft

    @property
    def standalone_input(self) -> Mapping[str, Any]:
        """Input of a request for this part alone."""
        if self.draft is None:
            return self.input
        return {**self.input, DRAFT: {**self.draft, "count": 1}}


def seeds_of(input: Mapping[str, Any], seed: int) -> list[int]:
    """Seed of each output: the input's ``seeds``, or its ``seed`` and the numbers after it, so that
    the first of four equals one made alone. ``seed`` is for inputs that have none."""
    if (seeds := input.get("seeds")) is not None:
        return [int(value) for value in seeds]
    own = input.get("seed")
    first = seed if own is None else int(own)
    drafting = input.get(DRAFT)
    count = int(drafting["count"] if drafting else input.get("num_images") or 1)
    return [_within(first + number) for number in range(count)]


def split(lease: Lease, seed: int, *, together: bool = False) -> Sequence[OutputPart]:
    """Split a request into generations. With ``seeds``, each video or audio is made by its own
    call, identical to a request with only that seed. This also holds for the images of a
    deterministic request. Other images come from one call.

    Each draft is made by its own call.

    ``together``: images come from one call in any case, because a snapshot of such a call exists.
    """
    requested, tickets = lease.input, lease.upload_tickets
    drafts = requested.get(DRAFT) is not None
    apart = "num_images" not in requested or (lease.alone and not together)
    if not drafts and (requested.get("seeds") is None or not apart):
        return (OutputPart(requested, tickets),)
    seeds = seeds_of(requested, seed)
    single = {name: value for name, value in requested.items() if name != DRAFT}
    single |= {"seeds": None} | ({"num_images": 1} if "num_images" in requested else {})
    per_seed, drafting = len(tickets) // len(seeds), requested.get(DRAFT)
    return tuple(
        OutputPart(single | {"seed": own}, tickets[number * per_seed :][:per_seed], drafting)
        for number, own in enumerate(seeds)
    )


def merge(products: Sequence[Product], seeds: Sequence[int] | None) -> Product:
    """Merge the products of the parts into one, in order. ``seeds``: those of the input, or None.

    Lists are concatenated. If a file stands alone, such as ``video``, the first one stays in place,
    and all are listed in a field beside it, ``videos``.
    """
    first = products[0]
    output = dict(first.output)
    for name, value in first.output.items():
        values = [product.output[name] for product in products]
        if isinstance(value, list):
            output[name] = [item for items in values for item in items]
        elif isinstance(value, Mapping) and "artifact" in value and seeds is not None:
            output[f"{name}s"] = values
    if len(products) > 1 and "timings" in output:
        spent = sum(product.output["timings"]["inference"] for product in products)
        output["timings"] = {"inference": round(spent, 4)}
    if seeds is not None:
        output["seeds"] = list(seeds)
    files = [file for product in products for file in product.files]
    units = sum(product.units for product in products)
    share = sum(product.share for product in products) / len(products)
    return replace(first, output=output, files=files, units=units, share=share)


def _within(seed: int) -> int:
    """Wrap around: the seed after the last is the first non-negative one."""
    return seed - SEEDS_END if seed >= SEEDS_END else seed
