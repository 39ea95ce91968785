"""The family for any other picture pipeline of diffusers: its endpoints' options say how their
input becomes a call, so an entry in the catalogue is all that a new model needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deployments.adapter_input import AskedAdapter, asked_adapters
from deployments.amendments import amended
from deployments.call_mapping import PIXELS, CallMapping, check, mapping_of, parameters
from deployments.called_pipeline import called_by, loaded, view_for
from deployments.family import GenerationCall, Made, Product
from deployments.first_input import first_input
from deployments.mapped_fields import mapped, need
from deployments.picture_call import drawing, picture_facts, sides
from deployments.picture_input import as_pixels, given_size, stretched_to
from deployments.picture_output import deliver_pictures
from deployments.picture_size import Size, asked_size, rendered_size
from deployments.side_multiple import side_multiple
from deployments.task import IMAGE_TO_IMAGE, INPAINTING, TEXT_TO_IMAGE
from serve_app.domain.artifact import UploadTicket
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import InvalidInput

TASKS = {
    TEXT_TO_IMAGE: frozenset[str](),
    IMAGE_TO_IMAGE: frozenset({"image"}),
    INPAINTING: frozenset({"image", "mask_image"}),
}


class GenericFamily:
    """Options of its endpoints: those of ``CallMapping``, ``dtype``, and those of
    ``amendments``."""

    name = "generic"

    def load(self, endpoint: Endpoint, device: str) -> Any:
        return amended(loaded(endpoint, mapping_of(endpoint, TASKS), device), endpoint)

    def warm_up(self, endpoint: Endpoint, pipeline: Any) -> GenerationCall:
        asked = first_input(endpoint, image_size="landscape_4_3", num_images=1)
        return self.prepare(endpoint, asked, pipeline, seed=0)

    def prepare(
        self, endpoint: Endpoint, input: Mapping[str, Any], pipeline: Any, seed: int
    ) -> GenerationCall:
        mapping = mapping_of(endpoint, TASKS)
        called = called_by(endpoint, mapping, pipeline)
        # Endpoints share loaded weights, and another one's options may have loaded these.
        check(endpoint, mapping, called)
        need(input, "prompt", "num_inference_steps")
        asked = _size(endpoint, input)
        multiple = mapping.multiple or side_multiple(pipeline)
        rendered = rendered_size(asked, multiple, mapping.native_size)
        arguments = {
            **drawing(input, seed),
            **sides(rendered),
            **mapping.fixed,
            **mapped(mapping, input),
            **_pictures(mapping, input, rendered),
        }
        arguments = _taken(endpoint, arguments, parameters(called))
        view = None if mapping.pipeline is None else view_for(endpoint, pipeline, called)
        redraws = mapping.task != TEXT_TO_IMAGE
        facts = picture_facts(input, seed, asked, stretched=redraws)
        return GenerationCall(arguments, facts, view=view)

    def adapters(self, input: Mapping[str, Any]) -> Sequence[AskedAdapter]:
        return asked_adapters(input)

    def deliver(
        self,
        endpoint: Endpoint,
        call: GenerationCall,
        made: Made,
        tickets: Sequence[UploadTicket],
    ) -> Product:
        return deliver_pictures(endpoint, call, made, tickets)


def _size(endpoint: Endpoint, input: Mapping[str, Any]) -> Size:
    """What to deliver: what is asked for, or else the size of the given picture."""
    if input.get("image_size") is None and "image_url" in input:
        return given_size(endpoint, input)
    need(input, "image_size")
    return asked_size(input["image_size"])


def _pictures(mapping: CallMapping, input: Mapping[str, Any], rendered: Size) -> dict[str, Any]:
    if mapping.task == TEXT_TO_IMAGE:
        return {}
    form = as_pixels if mapping.pictures == PIXELS else stretched_to
    pictures = {"image": form(input["image_url"], rendered)}
    if mapping.task == INPAINTING:
        pictures["mask_image"] = form(input["mask_url"].convert("L"), rendered)
    return pictures


def _taken(endpoint: Endpoint, arguments: dict[str, Any], takes: frozenset[str]) -> dict[str, Any]:
    """Some pipelines have a size or a number of pictures of their own."""
    if "num_images_per_prompt" not in takes and arguments["num_images_per_prompt"] > 1:
        raise InvalidInput.of_field("num_images", f"{endpoint.id} makes one picture at a time")
    optional = {"width", "height", "num_images_per_prompt"} - takes
    return {name: value for name, value in arguments.items() if name not in optional}
