"""Maps of the family ``generic``, such as depth: the output with a file for each.

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deployments.families.base import (
    GenerationCall,
    GenerationResult,
    MediaFile,
    Product,
    demo_facts,
    first_output,
    image_entry,
)
from deployments.families.call_mapping import CallMapping
from deployments.families.image_io import Size, generators, image_facts, seed_of
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import InvalidInput, Misconfigured
from serve_app.options.inputs import STEPS
from serve_app.options.results import DEPTH_MAP, IMAGE, DeclaredResult, ResultType

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

RESOLUTION = "processing_resolution"
"""Argument with the longer side at which the model works."""

DEFAULTS = {RESOLUTION: "default_processing_resolution", STEPS: "default_denoising_steps"}
"""Argument → attribute of the pipeline with the default of its weights, which some lack."""

DISPARITY = "disparity"
"""Maps of this ``prediction_type`` have the high values near, those of depth far."""


def map_arguments(
    mapping: CallMapping, input: Mapping[str, Any], pipeline: Any, seed: int
) -> dict[str, Any]:
    """Arguments in place of those for images: one generator, whatever the size of an ensemble.
    ``InvalidInput``: a size that the model cannot work at, or one that neither says."""
    multiple = pipeline.vae_scale_factor
    for name, argument in mapping.arguments.items():
        default = DEFAULTS.get(argument)
        if default and input.get(name) is None and getattr(pipeline, default) is None:
            raise InvalidInput.of_field(
                name, "Field required: the weights state no default", "missing"
            )
        if argument == RESOLUTION and (input.get(name) or 0) % multiple:
            raise InvalidInput.of_field(
                name,
                f"Input should be a multiple of {multiple}, or 0 for the size of the image",
                "multiple_of",
                {"multiple_of": multiple},
            )
    return {"generator": generators([seed_of(input, seed)])[0]}


def map_facts(
    input: Mapping[str, Any], seed: int, result: DeclaredResult, pipeline: Any
) -> dict[str, Any]:
    """Facts for ``deliver_maps``."""
    return {
        **image_facts(input, seed, None),
        "result": result,
        "targets": getattr(pipeline, "target_properties", None),
        "near_is_high": pipeline.config.get("prediction_type") == DISPARITY,
    }


def deliver_maps(
    endpoint: Endpoint,
    call: GenerationCall,
    generated: GenerationResult,
    tickets: Sequence[UploadTicket],
) -> Product:
    """Encode the maps of one image. The call's facts are those of ``map_facts``."""
    from deployments.engine.media.maps import as_tensor  # noqa: PLC0415

    images = _images(
        endpoint, call.output_facts, as_tensor(first_output(generated.result, "prediction"))
    )
    return _product(endpoint, call, generated, tickets, images)


def depth_arguments(pipeline: Any) -> dict[str, Any]:
    """Arguments of a pipeline that makes an image and its depth. ``Misconfigured``: its
    autoencoder has the depth in two channels of 8 bits, of which diffusers 0.42 keeps one."""
    if pipeline.vae.config.out_channels == CHANNELS_OF_BYTES:
        raise Misconfigured(
            "These weights make their depth in several channels of 8 bits, which diffusers 0.42 "
            "does not put together. Use those that make it in one, such as Intel/ldm3d-4c."
        )
    return {"output_type": "np"}  # it has no tensors


CHANNELS_OF_BYTES = 6
"""Channels of an image and its depth where both are RGB."""


def deliver_image_and_depth(
    endpoint: Endpoint,
    call: GenerationCall,
    generated: GenerationResult,
    tickets: Sequence[UploadTicket],
) -> Product:
    """Encode an image and its depth, both in the requested size. The call's facts are those of
    ``image_facts``."""
    from deployments.engine.media import maps  # noqa: PLC0415
    from deployments.engine.media.images import fit, to_images  # noqa: PLC0415

    (image,) = to_images(first_output(generated.result, "rgb"))
    (depth,) = maps.as_tensor(first_output(generated.result, "depth"))
    size = call.output_facts["size"] or Size(*image.size)
    fitted = fit(maps.unrounded(depth), size.width, size.height)
    images = {
        IMAGE: fit(image, size.width, size.height),
        DEPTH_MAP: maps.exact_depth(maps.of_unrounded(fitted)),
    }
    return _product(endpoint, call, generated, tickets, images)


def _product(
    endpoint: Endpoint,
    call: GenerationCall,
    generated: GenerationResult,
    tickets: Sequence[UploadTicket],
    images: Mapping[str, Image],
) -> Product:
    """Files of ``images`` by the fields of the output."""
    from deployments.engine.media.images import encode  # noqa: PLC0415

    files: dict[str, MediaFile] = {}
    for (name, image), ticket in zip(images.items(), tickets, strict=True):
        body = encode(
            image,
            ticket.media_type,
            generated.scratch.description,
            marked=generated.scratch.marked,
        )
        # Thumbnails and checkers of safety see what people do.
        shown = images[IMAGE] if name == DEPTH_MAP else image
        files[name] = MediaFile(ticket, body, image.width, image.height, shown)
    output: dict[str, Any] = {
        **{name: image_entry(file) for name, file in files.items()},
        "timings": {"inference": round(generated.inference_s, 4)},
        "seed": call.output_facts["seed"],
        **demo_facts(endpoint, call.output_facts["prompt"]),
    }
    units = sum(Size(*image.size).megapixels for image in images.values())
    return Product(output, [*files.values()], units=units)


def _images(
    endpoint: Endpoint, facts: Mapping[str, Any], prediction: torch.Tensor
) -> Mapping[str, Image]:
    """Image of each map. ``Misconfigured``: the weights make others than the entry says."""
    from deployments.engine.media import maps  # noqa: PLC0415

    result: DeclaredResult = facts["result"]
    match result.type:
        case ResultType.DEPTH:
            shown = maps.shown_depth(prediction[0], near_is_high=facts["near_is_high"])
            return {IMAGE: shown, DEPTH_MAP: maps.exact_depth(prediction[0])}
        case ResultType.NORMALS:
            return {IMAGE: maps.shown_normals(prediction[0])}
        case _:
            images = maps.intrinsics(prediction, facts["targets"] or {})
    if missing := sorted({*result.files} - images.keys()):
        raise Misconfigured(
            f"{endpoint.id}: the weights make {', '.join(images)}, but no {', '.join(missing)}. "
            "Change `options.result.fields` of the endpoint in the catalogue."
        )
    return {name: images[name] for name in result.files}
