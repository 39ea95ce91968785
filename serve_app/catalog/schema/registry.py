"""Input and output schemas of an endpoint. Built once per endpoint, at start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, Protocol

from serve_app.catalog.fields.pydantic_schema import PydanticSchema
from serve_app.catalog.schema import (
    audio,
    flux,
    images,
    sdxl,
    videos,
    wan,
)
from serve_app.catalog.schema.declared import DeclaredSchema
from serve_app.catalog.schema.json_schema import JsonSchema
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import FieldProblem, InvalidInput
from serve_app.options.inputs import DECLARED

# Schema that accepts any JSON object, for custom families.

MAX_ARTIFACTS = 64


class OpenInput:
    """Accepts any object, and fills in the endpoint's defaults.

    If the endpoint's options have ``artifacts_field``, that input field (a whole number) says how
    many files the request may produce. Their media type is the option ``media_type``, by default
    plain bytes.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._defaults = dict(endpoint.defaults)
        self._field: str | None = endpoint.options.get("artifacts_field")
        self._media_type: str = endpoint.options.get("media_type", "application/octet-stream")
        if endpoint.bounds:
            raise ValueError("the schema `open` has no fields, so it cannot have bounds")

    makes_drafts = False
    is_open = True
    fields: frozenset[str] = frozenset()

    def validate(
        self, body: Mapping[str, Any], origin: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        del origin  # it makes no drafts
        filled = {**self._defaults, **body}
        if self._field is not None:
            self._check_count(self._field, filled.get(self._field, 0))
        return filled, ()

    def media_types(self, input: Mapping[str, Any]) -> tuple[str, ...]:
        count = input.get(self._field, 0) if self._field is not None else 0
        return (self._media_type,) * count

    def json_schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": True}

    def output_schema(self) -> dict[str, Any]:
        return {"type": "object", "additionalProperties": True}

    def _check_count(self, name: str, count: object) -> None:
        if isinstance(count, bool) or not isinstance(count, int):
            message, type_, context = "Input should be a whole number", "int_type", None
        elif count < 0:
            message, type_, context = "Input should be 0 or more", "greater_than_equal", {"ge": 0}
        elif count > MAX_ARTIFACTS:
            message = f"Input should be {MAX_ARTIFACTS} or less"
            type_, context = "less_than_equal", {"le": MAX_ARTIFACTS}
        else:
            return
        problem = FieldProblem(("body", name), message, type_, context, count)
        raise InvalidInput(f"{name}: {message}", (problem,))


class InputSchema(Protocol):
    """Validates the inputs of one endpoint, and describes input and output."""

    @property
    def makes_drafts(self) -> bool:
        """True if the input has the fields of drafts. The pipeline may refuse them nevertheless."""
        ...

    @property
    def fields(self) -> frozenset[str]:
        """Names of the input's fields; empty: it names none."""
        ...

    @property
    def is_open(self) -> bool:
        """True if the input may also have fields that the schema does not name."""
        ...

    def validate(
        self, body: Mapping[str, Any], origin: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Input with its defaults, and warnings. ``InvalidInput`` names the invalid fields.

        ``origin``: input of the draft that ``body`` goes on from, for fields that it leaves out.
        """
        ...

    def media_types(self, input: Mapping[str, Any]) -> tuple[str, ...]:
        """Media type of each file that a valid input may produce."""
        ...

    def json_schema(self) -> dict[str, Any]:
        """JSON Schema 2020-12 of the input, with definitions under ``$defs``."""
        ...

    def output_schema(self) -> dict[str, Any]:
        """JSON Schema 2020-12 of the output, with definitions under ``$defs``."""
        ...


@lru_cache(1024)
def cached_json_schema(schema: InputSchema) -> Mapping[str, Any]:
    """JSON Schema of an input, without ``properties`` if it accepts every field. Building it takes
    milliseconds."""
    return schema.json_schema()


SCHEMAS: Mapping[str, Callable[[Endpoint], InputSchema]] = {
    "ace-step-text-to-music": partial(PydanticSchema, audio.TEXT_TO_MUSIC),
    DECLARED: DeclaredSchema,
    "flux-text-to-image": partial(PydanticSchema, flux.TEXT_TO_IMAGE),
    "flux-image-to-image": partial(PydanticSchema, flux.IMAGE_TO_IMAGE),
    "flux-lora": partial(PydanticSchema, flux.LORA),
    "flux2-realtime": partial(PydanticSchema, flux.REALTIME),
    "hunyuan-image-to-video": partial(PydanticSchema, videos.HUNYUAN_IMAGE_TO_VIDEO),
    "json": JsonSchema,
    "hunyuan-text-to-video": partial(PydanticSchema, videos.HUNYUAN_TEXT_TO_VIDEO),
    "lcm-text-to-image": partial(PydanticSchema, sdxl.LCM),
    "lightning-image-to-image": partial(PydanticSchema, sdxl.LIGHTNING_IMAGE_TO_IMAGE),
    "lightning-inpainting": partial(PydanticSchema, sdxl.LIGHTNING_INPAINTING),
    "lightning-text-to-image": partial(PydanticSchema, sdxl.LIGHTNING),
    "ltx-image-to-video": partial(PydanticSchema, videos.LTX_IMAGE_TO_VIDEO),
    "ltx-text-to-video": partial(PydanticSchema, videos.LTX_TEXT_TO_VIDEO),
    "ltx2-text-to-video": partial(PydanticSchema, videos.WITH_AUDIO),
    "open": OpenInput,
    "qwen-image-lightning-text-to-image": partial(PydanticSchema, images.QWEN_IMAGE_LIGHTNING),
    "qwen-image-text-to-image": partial(PydanticSchema, images.QWEN_IMAGE),
    "sdxl-image-to-image": partial(PydanticSchema, sdxl.IMAGE_TO_IMAGE),
    "sdxl-inpainting": partial(PydanticSchema, sdxl.INPAINTING),
    "sdxl-text-to-image": partial(PydanticSchema, sdxl.TEXT_TO_IMAGE),
    "stable-audio-text-to-audio": partial(PydanticSchema, audio.TEXT_TO_AUDIO),
    "upscaling": partial(PydanticSchema, images.UPSCALING),
    "wan-image-to-video": partial(PydanticSchema, wan.IMAGE_TO_VIDEO),
    "wan-text-to-video": partial(PydanticSchema, wan.TEXT_TO_VIDEO),
    "wan22-5b-image-to-video": partial(PydanticSchema, wan.SMALL_IMAGE_TO_VIDEO),
    "wan22-5b-text-to-video": partial(PydanticSchema, wan.SMALL_TEXT_TO_VIDEO),
    "wan22-a14b-image-to-video": partial(PydanticSchema, wan.LARGE_IMAGE_TO_VIDEO),
    "wan22-a14b-text-to-video": partial(PydanticSchema, wan.LARGE_TEXT_TO_VIDEO),
    "wan22-a14b-turbo-image-to-video": partial(PydanticSchema, wan.TURBO_IMAGE_TO_VIDEO),
    "wan22-a14b-turbo-text-to-video": partial(PydanticSchema, wan.TURBO_TEXT_TO_VIDEO),
    "z-image-text-to-image": partial(PydanticSchema, images.Z_IMAGE),
}
"""Schema name in the catalogue → builder. Builders raise ``ValueError`` for unusable settings."""
