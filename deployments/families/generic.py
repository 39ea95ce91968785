"""Generic family for other image pipelines of diffusers. The endpoint's options map its input to
the call, so a new model needs only an entry in the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deployments.families.base import GenerationCall
from deployments.families.call_mapping import (
    PIXELS,
    CallMapping,
    check_arguments,
    load_checked,
    mapped_arguments,
    mapping_of,
    parameters,
    pipeline_class,
    pipeline_view,
    require_fields,
    with_steps,
)
from deployments.families.image_io import (
    ImageFamily,
    Size,
    as_pixels,
    image_arguments,
    image_facts,
    image_work,
    input_size,
    rendered_size,
    requested_size,
    side_multiple,
    size_arguments,
    stretch_to,
)
from deployments.families.options import (
    IMAGE_TO_IMAGE,
    INPAINTING,
    TEXT_TO_IMAGE,
    apply_options,
)
from deployments.families.warm_up import warm_up_input
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import InvalidInput

TASKS = {
    TEXT_TO_IMAGE: frozenset[str](),
    IMAGE_TO_IMAGE: frozenset({"image"}),
    INPAINTING: frozenset({"image", "mask_image"}),
}


class GenericFamily(ImageFamily):
    """Family of any diffusers image pipeline. Options: those of ``CallMapping``, ``dtype``, and
    those of ``apply_options``."""

    name = "generic"

    def load(self, endpoint: Endpoint, device: str) -> Any:
        return apply_options(load_checked(endpoint, mapping_of(endpoint, TASKS), device), endpoint)

    def warm_up(self, endpoint: Endpoint, pipeline: Any) -> GenerationCall:
        requested = warm_up_input(endpoint, image_size="landscape_4_3", num_images=1)
        return self.prepare(endpoint, requested, pipeline, seed=0)

    def prepare(
        self, endpoint: Endpoint, input: Mapping[str, Any], pipeline: Any, seed: int
    ) -> GenerationCall:
        mapping = mapping_of(endpoint, TASKS)
        input = with_steps(mapping, input)  # noqa: A001
        called = pipeline_class(endpoint, mapping, pipeline)
        # Endpoints share loaded weights, which may have been loaded with another one's options.
        check_arguments(endpoint, mapping, called)
        require_fields(input, "prompt", "num_inference_steps")
        requested = _size(endpoint, input)
        multiple = mapping.multiple or side_multiple(pipeline)
        rendered = rendered_size(requested, multiple, mapping.native_size)
        arguments = {
            **image_arguments(input, seed),
            **size_arguments(rendered),
            **mapping.fixed,
            **mapped_arguments(mapping, input),
            **_images(mapping, input, rendered),
        }
        arguments = _taken(endpoint, arguments, parameters(called))
        view = None if mapping.pipeline is None else pipeline_view(endpoint, pipeline, called)
        facts = image_facts(input, seed, requested, mapping.task)
        return GenerationCall(arguments, facts, view=view, work=image_work(input, rendered))


def _size(endpoint: Endpoint, input: Mapping[str, Any]) -> Size:
    """Size to deliver: the requested size, or else the size of the input image."""
    if input.get("image_size") is None and "image_url" in input:
        return input_size(endpoint, input)
    require_fields(input, "image_size")
    return requested_size(endpoint, input)


def _images(mapping: CallMapping, input: Mapping[str, Any], rendered: Size) -> dict[str, Any]:
    if mapping.task == TEXT_TO_IMAGE:
        return {}
    form = as_pixels if mapping.images == PIXELS else stretch_to
    images = {"image": form(input["image_url"], rendered)}
    if mapping.task == INPAINTING:
        images["mask_image"] = form(input["mask_url"], rendered)
    return images


def _taken(endpoint: Endpoint, arguments: dict[str, Any], takes: frozenset[str]) -> dict[str, Any]:
    """Drop optional arguments that the pipeline lacks: a fixed size, or one image per call."""
    if "num_images_per_prompt" not in takes and arguments["num_images_per_prompt"] > 1:
        raise InvalidInput.of_field("num_images", f"{endpoint.id} makes one image at a time")
    optional = {"width", "height", "num_images_per_prompt"} - takes
    return {name: value for name, value in arguments.items() if name not in optional}
