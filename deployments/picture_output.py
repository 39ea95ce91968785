"""What the families of pictures have in common: seeds, and the output in fal's shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deployments.family import GenerationCall, Made, MediaFile, Product
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import Misconfigured

if TYPE_CHECKING:
    from torch import Generator

DTYPE_ON_CPU = "float32"


def own_dtype(endpoint: Endpoint, device: str, on_gpu: str) -> str:
    """The ``dtype`` of the endpoint's options, or else what suits the device."""
    return endpoint.options.get("dtype", DTYPE_ON_CPU if device == "cpu" else on_gpu)


def seed_of(input: Mapping[str, Any], seed: int) -> int:
    """The input's, or ``seed`` where it has none."""
    given = input.get("seed")
    return seed if given is None else int(given)


def generators(seeds: Sequence[int]) -> list[Generator]:
    """One for each picture."""
    import torch  # noqa: PLC0415

    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def deliver_pictures(
    endpoint: Endpoint, call: GenerationCall, made: Made, tickets: Sequence[UploadTicket]
) -> Product:
    """The pictures of a pipeline that was asked for tensors.

    The call's facts are the ``size`` to deliver, the ``seed`` and the ``prompt``; with
    ``stretched``, the whole of what was rendered is delivered, else the middle in the size's shape.
    """
    from deployments.engine.media import encode, fit, stretch, to_pictures  # noqa: PLC0415

    pictures = to_pictures(made.result.images)
    if len(tickets) < len(pictures):
        raise Misconfigured(
            f"{len(pictures)} pictures were made, but the lease came with {len(tickets)} tickets."
        )
    size = call.facts["size"]
    resize = stretch if call.facts.get("stretched") else fit
    files = [
        MediaFile(
            ticket=ticket,
            body=encode(resize(picture, size.width, size.height), ticket.media_type),
            width=size.width,
            height=size.height,
        )
        for picture, ticket in zip(pictures, tickets, strict=False)
    ]
    output: dict[str, Any] = {
        "images": [_image(file) for file in files],
        "timings": {"inference": round(made.inference_s, 4)},
        "seed": call.facts["seed"],
        "has_nsfw_concepts": [False] * len(files),
        "prompt": call.facts["prompt"],
    }
    if endpoint.weights.demo:
        output["darkroom_demo"] = True
    return Product(output, files, units=size.megapixels * len(files))


def _image(file: MediaFile) -> dict[str, Any]:
    return {
        "artifact": file.ticket.key,
        "width": file.width,
        "height": file.height,
        "content_type": file.ticket.media_type,
        "file_size": file.size,
    }
