"""Images of the families: sizes, arguments, input images, and the output in fal's format.

Importing this module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from deployments.families.base import (
    GenerationCall,
    GenerationResult,
    MediaFile,
    Product,
    demo_facts,
    first_output,
    image_entry,
)
from deployments.families.multi_output import seeds_of
from deployments.families.options import INPAINTING, TEXT_TO_IMAGE, requested_loras
from deployments.transfer.lora_fetcher import RequestedLora
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint, RequestedWork
from serve_app.domain.errors import InvalidInput, Misconfigured
from serve_app.domain.media.image_size import (
    AUTO,
    AUTO_AREA,
    MAX_MEGAPIXELS,
    PRESETS,
    auto_size,
)

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Generator, Tensor


def own_dtypes(endpoint: Endpoint, device: str, on_gpu: str) -> Mapping[str, str]:
    """Types of the endpoint's weights by component, as ``load_pipeline`` takes them. ``default`` is
    the ``dtype`` of its options, or else the default for the device. The option ``dtypes`` names
    components that need another."""
    from deployments.engine.accelerator.selection import accelerator_for  # noqa: PLC0415

    default = endpoint.options.get("dtype") or accelerator_for(device).dtype(on_gpu)
    dtypes = endpoint.options.get("dtypes") or {}
    if not isinstance(dtypes, Mapping):
        raise Misconfigured(
            f"{endpoint.id}: `options.dtypes` is {dtypes!r} in the catalogue; it must be a mapping "
            "from components to types, such as {vae: float32}."
        )
    return {"default": default, **cast("Mapping[str, str]", dtypes)}


def seed_of(input: Mapping[str, Any], seed: int) -> int:
    """The input's seed, or ``seed`` if it has none."""
    requested = input.get("seed")
    return seed if requested is None else int(requested)


def generators(seeds: Sequence[int]) -> list[Generator]:
    """One generator per image."""
    import torch  # noqa: PLC0415

    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


class ImageFamily:
    """Base of the families that accept LoRAs and deliver images as files."""

    def loras(self, input: Mapping[str, Any]) -> Sequence[RequestedLora]:
        return requested_loras(input)

    def deliver(
        self,
        endpoint: Endpoint,
        call: GenerationCall,
        generated: GenerationResult,
        tickets: Sequence[UploadTicket],
    ) -> Product:
        return deliver_images(endpoint, call, generated, tickets)


def deliver_images(
    endpoint: Endpoint,
    call: GenerationCall,
    generated: GenerationResult,
    tickets: Sequence[UploadTicket],
) -> Product:
    """Encode the images of a pipeline that returned tensors.

    The call's facts are those of ``image_facts``. With ``stretched``, the whole rendered image is
    delivered; otherwise its centre in the size's shape. With ``unmasked``, an original and its
    mask, what lies outside the mask is that of the original.
    """
    from deployments.engine.media.images import encode, fit, stretch, to_images  # noqa: PLC0415
    from deployments.engine.media.inpainting import keep_outside  # noqa: PLC0415

    images = to_images(first_output(generated.result, "images", "image"))
    if len(tickets) < len(images):
        raise Misconfigured(
            f"{len(images)} images were made, but the lease has {len(tickets)} tickets."
        )
    size = call.output_facts["size"] or Size(*images[0].size)
    resize = stretch if call.output_facts.get("stretched") else fit
    resized = [resize(image, size.width, size.height) for image in images]
    if unmasked := call.output_facts.get("unmasked"):
        resized = keep_outside(resized, *(stretch_to(original, size) for original in unmasked))
    files = [
        MediaFile(
            ticket=ticket,
            body=encode(
                image,
                ticket.media_type,
                generated.scratch.description,
                marked=generated.scratch.marked,
            ),
            width=size.width,
            height=size.height,
            image=image,
        )
        for image, ticket in zip(resized, tickets, strict=False)
    ]
    output: dict[str, Any] = {
        "images": [image_entry(file) for file in files],
        "timings": {"inference": round(generated.inference_s, 4)},
        "seed": call.output_facts["seed"],
        "has_nsfw_concepts": [False] * len(files),
        "prompt": call.output_facts["prompt"],
    }
    output |= demo_facts(endpoint, call.output_facts["prompt"])
    return Product(output, files, units=size.megapixels * len(files))


# Requested and rendered sizes.


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height of an image or video, in pixels."""

    width: int
    height: int

    @property
    def megapixels(self) -> float:
        return self.width * self.height / 1e6


def requested_size(endpoint: Endpoint, input: Mapping[str, Any]) -> Size:
    """Size that an input's ``image_size`` names; for ``auto``, that of its image (``auto_size``)
    within the endpoint's bounds."""
    value = input["image_size"]
    if not isinstance(value, str):
        return Size(int(value["width"]), int(value["height"]))
    if value == AUTO and "image_url" in input:
        most = endpoint.bounds.get("megapixels", (0.0, math.inf))[1]
        width, height = input["image_url"].size
        return Size(*auto_size(width, height, min(AUTO_AREA, most * 1e6)))
    if value not in PRESETS:
        raise InvalidInput(f"image_size {value!r} is not one of {', '.join(PRESETS)}.")
    return Size(*PRESETS[value])


def fit_within(shape: Size, box: Size) -> Size:
    """Largest size with the shape's aspect ratio that fits into the box."""
    scale = min(box.width / shape.width, box.height / shape.height)
    return Size(max(1, round(shape.width * scale)), max(1, round(shape.height * scale)))


def limit_megapixels(size: Size, megapixels: float) -> Size:
    """``size``, or one with its aspect ratio scaled down to ``megapixels``."""
    if size.megapixels <= megapixels:
        return size
    scale = math.sqrt(megapixels / size.megapixels)
    return Size(max(1, int(size.width * scale)), max(1, int(size.height * scale)))


def rendered_size(requested: Size, multiple: int, native: int | None) -> Size:
    """Size to render. Both sides are multiples of ``multiple``.

    Without ``native``: the smallest size that covers the requested one; the rest is cropped. With
    ``native`` (pixels; for models that know only one scale): the longer side has that length, and
    the shorter side is the one that loses least when the image is cropped to the requested shape.
    """
    if native is None:
        return Size(_up(requested.width, multiple), _up(requested.height, multiple))
    longer = _up(native, multiple)
    aspect = min(requested.width, requested.height) / max(requested.width, requested.height)
    below = max(multiple, math.floor(longer * aspect / multiple) * multiple)
    shorter = min((below, below + multiple), key=lambda side: _share_cropped(side / longer, aspect))
    shorter = min(shorter, longer)
    return Size(longer, shorter) if requested.width >= requested.height else Size(shorter, longer)


def _up(side: int, multiple: int) -> int:
    return math.ceil(side / multiple) * multiple


def _share_cropped(rendered: float, requested: float) -> float:
    """Share of the image that is cropped away. Both arguments are shorter ÷ longer side."""
    return 1 - min(rendered, requested) / max(rendered, requested)


# Input images.


def as_text_to_image(endpoint: Endpoint) -> Endpoint:
    """Endpoint with the same weights and the task text-to-image."""
    return replace(endpoint, options={**endpoint.options, "task": TEXT_TO_IMAGE})


def image_size(endpoint: Endpoint, image: Image) -> Size:
    """Size of an input image, within the limit."""
    limit = endpoint.bounds.get("megapixels", (0.0, MAX_MEGAPIXELS))[1]
    return limit_megapixels(Size(*image.size), limit)


def stretch_to(image: Image, size: Size) -> Image:
    """The whole image, stretched to ``size``."""
    from PIL.Image import Resampling  # noqa: PLC0415

    return image.resize((size.width, size.height), Resampling.LANCZOS, reducing_gap=3.0)


def as_pixels(image: Image, size: Size) -> Tensor:
    """The whole image, stretched to ``size``: float32 [1, channels, height, width], 0 to 1."""
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415

    levels = np.asarray(stretch_to(image, size), dtype=np.float32) / 255.0
    pixels = torch.from_numpy(np.atleast_3d(levels))
    return pixels.permute(2, 0, 1)[None].contiguous()


def strength_of(input: Mapping[str, Any], steps: int) -> float:
    """Strength of redrawing the image. ``InvalidInput`` if less than one step would be left."""
    strength = float(input["strength"])
    if int(steps * strength) < 1:
        raise InvalidInput.of_field(
            "strength",
            f"{strength:g} of {steps} steps leaves none: raise strength or num_inference_steps",
        )
    return strength


# Arguments of image pipelines, and facts for the delivery.


def image_arguments(input: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Prompt, steps, number of images and generators of a call; the result is requested as tensors.

    ``seed`` is for inputs that have none. None: the input has no such field.
    """
    seeds, steps = seeds_of(input, seed), input.get("num_inference_steps")
    return {
        "prompt": input.get("prompt"),
        "num_inference_steps": None if steps is None else int(steps),
        "num_images_per_prompt": len(seeds),
        "generator": generators(seeds),
        "output_type": "pt",
    }


def image_to_image_arguments(input: Mapping[str, Any], rendered: Size) -> dict[str, Any]:
    """Input image at the rendered size, and the strength with which it is redrawn."""
    return {
        "image": as_pixels(input["image_url"], rendered),
        "strength": strength_of(input, int(input["num_inference_steps"])),
    }


def size_arguments(rendered: Size) -> dict[str, int]:
    return {"width": rendered.width, "height": rendered.height}


def image_work(input: Mapping[str, Any], rendered: Size) -> RequestedWork:
    """What a call makes whose images have the size ``rendered``."""
    return RequestedWork(rendered.width, rendered.height, images=len(seeds_of(input, 0)))


PRESERVE = "preserve_unmasked"  # a field that fal's inputs lack


def image_facts(
    input: Mapping[str, Any], seed: int, size: Size | None, task: str = TEXT_TO_IMAGE
) -> dict[str, Any]:
    """Facts for ``deliver_images``. ``size`` None: that of the images that the pipeline returns."""
    keeps = task == INPAINTING and input.get(PRESERVE, True)
    unmasked = (input["image_url"], input["mask_url"]) if keeps else ()
    return {
        "seed": seeds_of(input, seed)[0],
        "size": size,
        "prompt": input.get("prompt") or "",
        "stretched": task != TEXT_TO_IMAGE,
        "unmasked": unmasked,
    }


# Size alignment: multiples of image sides, in pixels, derived from a pipeline's components.

UNET_ALIGNMENT = 8
"""Pipelines with a UNet reject sides that are not a multiple of this, with any autoencoder."""


def side_multiple(pipeline: Any) -> int:
    """Multiple that both the pipeline's check and the denoiser's patches and halvings require."""
    latent = _compression(pipeline)
    unet = getattr(pipeline, "unet", None)
    if unet is not None:
        halvings = len(unet.config["block_out_channels"]) - 1
        return math.lcm(UNET_ALIGNMENT, latent * 2**halvings)
    return math.lcm(_pipeline_multiple(pipeline) or latent, latent * _patch(pipeline))


def _compression(pipeline: Any) -> int:
    """Pixels per side of a latent. Pipelines use different attribute names for it."""
    for name in ("vae_scale_factor", "vae_scale_factor_spatial", "vae_spatial_compression_ratio"):
        if factor := getattr(pipeline, name, None):
            return int(factor)
    return 8


def _pipeline_multiple(pipeline: Any) -> int:
    """Multiple that the pipeline checks. Pipelines that pack latents configure it there."""
    processor = getattr(pipeline, "image_processor", None)
    return int(getattr(getattr(processor, "config", None), "vae_scale_factor", 0))


def _patch(pipeline: Any) -> int:
    """Latents per side of a token."""
    config = getattr(getattr(pipeline, "transformer", None), "config", {})
    patch = config.get("patch_size", 1)
    if isinstance(patch, list | tuple) and patch:  # (frames, height, width)
        patch = patch[-1]
    return patch if isinstance(patch, int) else 1
