"""Generic family for other image pipelines of diffusers. The endpoint's options map its input to
the call, so a new model needs only an entry in the catalogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deployments.families.base import GenerationCall, GenerationResult, Product
from deployments.families.call_mapping import (
    PIXELS,
    STANDARD,
    CallMapping,
    adapter_arguments,
    adapter_set_up,
    as_families_read,
    check_arguments,
    chosen_results,
    load_checked,
    mapped_arguments,
    mapping_of,
    parameters,
    pipeline_class,
    require_fields,
    view_to_call,
)
from deployments.families.image_io import (
    ImageFamily,
    Size,
    as_pixels,
    image_arguments,
    image_facts,
    image_size,
    image_work,
    rendered_size,
    requested_size,
    side_multiple,
    size_arguments,
    stretch_to,
)
from deployments.families.maps_io import (
    deliver_image_and_depth,
    deliver_maps,
    depth_arguments,
    map_arguments,
    map_facts,
)
from deployments.families.mesh_io import deliver_mesh
from deployments.families.object_inputs import object_arguments
from deployments.families.options import (
    IMAGE_TO_IMAGE,
    IMAGE_TO_TEXT,
    INPAINTING,
    TEXT_TO_IMAGE,
    TEXT_TO_TEXT,
    apply_options,
    main_file,
)
from deployments.families.text_io import deliver_text, text_arguments
from deployments.families.warm_up import warm_up_input
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import InvalidInput
from serve_app.options.results import MAPS, ResultType, declared_result

SIDES = frozenset({"width", "height"})
COUNT = "num_images_per_prompt"
ENCODER_LAYERS = "text_encoder_out_layers"
"""Argument with the layers of the text encoder whose outputs the denoiser takes together."""
TASKS = {
    TEXT_TO_IMAGE: frozenset[str](),
    IMAGE_TO_IMAGE: frozenset({"image"}),
    INPAINTING: frozenset({"image", "mask_image"}),
    TEXT_TO_TEXT: frozenset[str](),
    IMAGE_TO_TEXT: frozenset({"image"}),
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
        input = as_families_read(mapping, input)  # noqa: A001
        called = pipeline_class(endpoint, mapping, pipeline)
        # Endpoints share loaded weights, which may have been loaded with another one's options.
        check_arguments(endpoint, mapping, called)
        _check_encoder_layers(mapping, input, pipeline)
        takes = parameters(called)
        if not mapping.inputs:
            require_fields(input, "prompt", "num_inference_steps")
        requested = _size(endpoint, mapping, input, takes)
        rendered = None
        if requested is not None:
            multiple = mapping.multiple or side_multiple(pipeline)
            rendered = rendered_size(requested, multiple, mapping.native_size)
        result = mapping.result
        type_ = None if result is None else result.type
        maps = result if type_ in MAPS else None
        arguments = {
            **image_arguments(input, seed),
            **({} if maps is None else map_arguments(mapping, input, pipeline, seed)),
            **({"output_type": "mesh"} if type_ is ResultType.MESH else {}),
            **(
                text_arguments(mapping.inputs, input, pipeline, seed)
                if type_ is ResultType.TEXT
                else {}
            ),
            **(depth_arguments(pipeline) if type_ is ResultType.IMAGE_AND_DEPTH else {}),
            **(size_arguments(rendered) if rendered is not None else {}),
            **mapping.fixed,
            **mapped_arguments(mapping, input),
            **_images(mapping, input, rendered),
            **adapter_arguments(mapping, input),
            **object_arguments(mapping.inputs, input, called),
            **chosen_results(called),
        }
        arguments = _drop_unsupported(endpoint, mapping, arguments, takes)
        view = view_to_call(endpoint, mapping, input, pipeline, called)
        if maps is None:
            facts = image_facts(input, seed, requested, mapping.task)
        else:
            facts = map_facts(input, seed, maps, pipeline)
        work = None if rendered is None else image_work(input, rendered)
        return GenerationCall(
            arguments,
            facts,
            makes_files=type_ is not ResultType.TEXT,
            view=view,
            work=work,
            set_up=adapter_set_up(mapping, input),
        )

    def deliver(
        self,
        endpoint: Endpoint,
        call: GenerationCall,
        generated: GenerationResult,
        tickets: Sequence[UploadTicket],
    ) -> Product:
        result = declared_result(endpoint)
        match None if result is None else result.type:
            case ResultType.TEXT:
                return deliver_text(call, generated)
            case ResultType.IMAGE_AND_DEPTH:
                return deliver_image_and_depth(endpoint, call, generated, tickets)
            case ResultType.MESH:
                return deliver_mesh(endpoint, call, generated, tickets)
            case type_ if type_ in MAPS:
                return deliver_maps(endpoint, call, generated, tickets)
            case _:
                return super().deliver(endpoint, call, generated, tickets)


def _check_encoder_layers(mapping: CallMapping, input: Mapping[str, Any], pipeline: Any) -> None:
    """Raise ``InvalidInput`` for layers that the text encoder lacks, and for more or fewer than the
    denoiser takes."""
    for name, field in mapping.inputs.items():
        if field.argument != ENCODER_LAYERS or (layers := input.get(name)) is None:
            continue
        encoder = pipeline.text_encoder.config.get_text_config()
        count = pipeline.transformer.config.joint_attention_dim // encoder.hidden_size
        if len(layers) != count:
            raise InvalidInput.of_field(name, f"Input should have {count} items")
        last = encoder.num_hidden_layers
        for place, layer in enumerate(layers):
            if not 0 <= layer <= last:
                text = f"Input should be from 0 to {last}, the last layer of the text encoder"
                raise InvalidInput.of_field(f"{name}.{place}", text)


def _size(
    endpoint: Endpoint, mapping: CallMapping, input: Mapping[str, Any], takes: frozenset[str]
) -> Size | None:
    """Size to deliver: the requested size, or else the size of the input image. None: a size that
    the pipeline chooses."""
    if mapping.inputs and not takes >= SIDES:
        return None
    if input.get("image_size") is None and (image := main_file(endpoint, input)) is not None:
        return image_size(endpoint, image)
    if not mapping.inputs:
        require_fields(input, "image_size")
    return None if input.get("image_size") is None else requested_size(endpoint, input)


def _images(
    mapping: CallMapping, input: Mapping[str, Any], rendered: Size | None
) -> dict[str, Any]:
    """Arguments that take input images: in the size to render, unless they keep their own."""
    if mapping.inputs:
        files = [
            (name, field.argument, field.keeps_size)
            for name, field in mapping.inputs.items()
            if field.is_file and not field.is_adapters and input.get(name)
        ]
    else:
        file_fields = {"image": "image_url", "mask_image": "mask_url"}
        files = [
            (name, field_name, False)
            for field_name, name in file_fields.items()
            if field_name in TASKS[mapping.task]
        ]
    if mapping.result is not None and mapping.result.type is ResultType.LAYERS:
        # The autoencoder of layers has a channel for alpha.
        return {argument: input[name].convert("RGBA") for name, argument, _ in files}
    form = as_pixels if mapping.images == PIXELS else stretch_to

    def reshape(value: Any, size: Size) -> Any:
        return [form(e, size) for e in value] if isinstance(value, list) else form(value, size)

    return {
        argument: input[name] if as_is or rendered is None else reshape(input[name], rendered)
        for name, argument, as_is in files
    }


def _drop_unsupported(
    endpoint: Endpoint, mapping: CallMapping, arguments: dict[str, Any], takes: frozenset[str]
) -> dict[str, Any]:
    """Drop optional arguments that the pipeline lacks: a fixed size, or one image per call."""
    if COUNT not in takes and arguments[COUNT] > 1:
        raise InvalidInput.of_field("num_images", f"{endpoint.id} makes one image at a time")
    left_out = {*SIDES, COUNT} - takes
    if mapping.inputs:
        left_out |= {name for name in STANDARD if name not in takes or arguments[name] is None}
    return {name: value for name, value in arguments.items() if name not in left_out}
