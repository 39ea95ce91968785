"""A snapshot of a request that is made in parts: those that are finished, with their files, and the
engine's snapshot of the one under way. As the engine's: safetensors with JSON in its header.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deployments.family import Product
from deployments.media_file import MediaFile
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.errors import SnapshotRefused

FORMAT = 1
MOST_BYTES = 256 * 2**20
"""Of finished files: each snapshot has all of them, and is in memory as a whole."""


@dataclass(frozen=True, slots=True)
class FinishedPart:
    product: Product  # its files are there until the attempt ends
    steps: int


def to_bytes(finished: Sequence[FinishedPart], snapshot: bytes) -> bytes:
    """``snapshot``: the engine's, of the part after ``finished``. ``SnapshotRefused`` where their
    files are over ``MOST_BYTES``, or gone."""
    import numpy as np  # noqa: PLC0415
    from safetensors.numpy import save  # noqa: PLC0415

    try:
        size = sum(file.size for each in finished for file in each.product.files)
        if size > MOST_BYTES:
            raise SnapshotRefused(
                f"Its finished files have {size} bytes, and at most {MOST_BYTES} are kept."
            )
        bodies = {_name(part, place): file.in_memory() for part, place, file in _files(finished)}
    except FileNotFoundError as error:
        raise SnapshotRefused("Its finished files are gone, as its attempt has ended.") from error
    bodies[_UNDER_WAY] = snapshot
    told = {"format": FORMAT, "finished": [_described(each) for each in finished]}
    tensors = {name: np.frombuffer(body, np.uint8) for name, body in bodies.items()}
    return save(tensors, metadata={_KEY: json.dumps(told)})


def _files(finished: Sequence[FinishedPart]) -> Iterator[tuple[int, int, MediaFile]]:
    """Each with its part's number, and its own among the part's."""
    for part, each in enumerate(finished):
        for place, file in enumerate(each.product.files):
            yield part, place, file


def _described(part: FinishedPart) -> dict[str, Any]:
    product = part.product
    files = [
        {"key": file.ticket.key, "width": file.width, "height": file.height}
        for file in product.files
    ]
    return {
        "output": dict(product.output),
        "units": product.units,
        "steps": part.steps,
        "files": files,
    }


def is_one(found: bytes) -> bool:
    """Whether it is one of these, and not the engine's own. ``SnapshotRefused`` for neither."""
    return _KEY in _header(found)


def of_bytes(
    found: bytes, tickets: Sequence[Sequence[UploadTicket]]
) -> tuple[Sequence[FinishedPart], bytes]:
    """What ``to_bytes`` was given; files and output with ``tickets``, those of each part. Reads all
    of it, so it takes a while. ``SnapshotRefused`` for what does not fit."""
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.numpy import load  # noqa: PLC0415

    try:
        told = json.loads(_header(found)[_KEY])
        if told["format"] != FORMAT:
            raise SnapshotRefused("It is of another version of Darkroom.")
        bodies = {name: array.tobytes() for name, array in load(found).items()}
        finished = [
            _finished(each, part, tickets[part], bodies)
            for part, each in enumerate(told["finished"])
        ]
        return finished, bodies[_UNDER_WAY]
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise SnapshotRefused("It is of another request, or broken.") from error


def _header(found: bytes) -> Mapping[str, str]:
    size = int.from_bytes(found[:8], "little")
    try:
        return dict(json.loads(found[8 : 8 + size])["__metadata__"])
    except (ValueError, LookupError, TypeError) as error:
        raise SnapshotRefused("It is no snapshot.") from error


def _finished(
    told: Mapping[str, Any],
    part: int,
    tickets: Sequence[UploadTicket],
    bodies: Mapping[str, bytes],
) -> FinishedPart:
    files = [
        MediaFile(tickets[place], bodies[_name(part, place)], file["width"], file["height"])
        for place, file in enumerate(told["files"])
    ]
    keys = {was["key"]: file.ticket.key for was, file in zip(told["files"], files, strict=True)}
    output = _renamed(told["output"], keys)
    return FinishedPart(Product(output, files, told["units"]), told["steps"])


def _renamed(value: Any, keys: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_renamed(each, keys) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        name: keys[each] if name == "artifact" else _renamed(each, keys)
        for name, each in value.items()
    }


def _name(part: int, place: int) -> str:
    return f"{part}/{place}"


_KEY = "darkroom-parts"
_UNDER_WAY = "under way"
