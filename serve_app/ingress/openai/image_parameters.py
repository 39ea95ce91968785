"""Translation of OpenAI's image parameters to an endpoint's input, and of images to responses."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal, NotRequired, cast

from pydantic import Field, WithJsonSchema
from typing_extensions import TypedDict

from serve_app.catalog.suggestions import APPS
from serve_app.domain.artifact import Artifact
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import InvalidInput, PipelineFailed
from serve_app.domain.media.image_size import in_shape_of_image
from serve_app.domain.ports import Storage
from serve_app.domain.request import Request
from serve_app.ingress.openai.parameters import Parameters, not_here
from serve_app.ingress.services.files import Files
from serve_app.ingress.submission.model_lookup import EndpointFields
from serve_app.ingress.submission.rendering import base64_of, final_outcome
from serve_app.options.results import ResultType, declared_result

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
MAX_IMAGES, MAX_PARTIAL = 10, 3

STEPS: Mapping[str, float] = {
    "low": 0.5,
    "medium": 1.0,
    "standard": 1.0,
    "high": 1.5,
    "hd": 1.5,
    "xhigh": 2.0,
    "max": 4.0,
}
"""Quality → factor of the endpoint's default number of denoising steps, within its bounds."""

NAMES: Mapping[str, str] = {
    "num_images": "n",
    "image_size": "size",
    "format": "output_format",
    "image_url": "image",
    "image_urls": "image",
    "mask_url": "mask",
}
"""Field of an endpoint's input → OpenAI's parameter that sets it."""


CUT_OUT = ("fal-ai/birefnet", "fal-ai/birefnet/v2", "fal-ai/imageutils/rembg")
"""Endpoints of fal's that remove the background of an image, so that theirs is transparent."""

SPELLED: Mapping[str, str] = {"jpeg": "jpg"}
"""Format → its other name, which some endpoints use."""

COMPRESSIONS = ("output_compression", "output_quality")
"""Fields of endpoints for the quality of JPEG and WebP, 0 to 100."""

# Values that the OpenAPI document names. The endpoint checks the formats.
Format = Annotated[str, WithJsonSchema({"type": "string", "enum": ["png", "jpeg", "webp"]})]


class ImageParameters(Parameters):
    """OpenAI's parameters of ``images/generations`` and ``images/edits``."""

    prompt: str
    model: str | None = Field(
        default=None, description="Id of an endpoint, or an alias. Default: an endpoint for images."
    )
    n: int | None = Field(default=None, ge=1, le=MAX_IMAGES)
    size: str | None = Field(default=None, description="`auto`, or pixels as in `1024x1024`.")
    quality: Literal["auto", "low", "medium", "standard", "high", "hd", "xhigh", "max"] | None = (
        None
    )
    output_format: Format | None = None
    output_compression: int | None = Field(default=None, ge=0, le=100)
    background: Literal["auto", "opaque", "transparent"] | None = None
    moderation: Literal["auto", "low"] | None = None
    style: Literal["vivid", "natural"] | None = None
    input_fidelity: Literal["low", "high"] | None = None
    response_format: Literal["url", "b64_json"] | None = None
    stream: bool | None = None
    partial_images: int | None = Field(default=None, ge=0, le=MAX_PARTIAL)
    user: str | None = None
    safety_identifier: str | None = None


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """Endpoint's input for a call, and the options of the response."""

    input: dict[str, Any]
    echoed: dict[str, Any]  # parameters that the response repeats: quality, background, size …
    response_formats: frozenset[str]  # of images in the response: "url", "b64_json", or both
    streamed: bool
    partial_images: int

    @property
    def size(self) -> str:
        return self.echoed["size"]


def parse_parameters(
    parameters: ImageParameters,
    fields: EndpointFields,
    files: Mapping[str, Any] = MappingProxyType({}),
) -> ImageRequest:
    """Translate a call. ``InvalidInput`` names each parameter that the endpoint cannot apply.

    ``files``: fields of the input for the images to edit.
    """
    arguments = (
        _passed_on(parameters)
        if parameters.go_on(fields)
        else _translate_parameters(parameters, fields, files)
    )
    echoed = {
        "background": parameters.background or "auto",
        "quality": parameters.quality or "auto",
        "size": parameters.size or "auto",
        "safety_identifier": parameters.safety_identifier or parameters.user,
    }
    return ImageRequest(
        input=in_shape_of_image({**files, **arguments}, fields.named),
        echoed={name: value for name, value in echoed.items() if value is not None},
        response_formats=frozenset(
            (parameters.response_format,) if parameters.response_format else ("url", "b64_json")
        ),
        streamed=bool(parameters.stream),
        partial_images=parameters.partial_images or 0,
    )


OF_THE_ANSWER = {"model", "response_format", "stream", "partial_images", "safety_identifier"}
"""Parameters that say how our own answer is sent, or which endpoint makes it."""


def _passed_on(parameters: ImageParameters) -> dict[str, Any]:
    """Input of an endpoint at OpenAI: its own parameters, which it and the schema check."""
    return parameters.model_dump(exclude_none=True, exclude=OF_THE_ANSWER)


def _translate_parameters(
    parameters: ImageParameters, fields: EndpointFields, files: Mapping[str, Any]
) -> dict[str, Any]:
    """Input of an endpoint with names of its own."""
    _check_fidelity(parameters, fields, files)
    arguments = parameters.own_fields(fields) | _background(parameters, fields)
    # OpenAI's clients cannot leave it out, also where an upscaler takes none.
    if parameters.prompt or fields.accepts("prompt"):
        arguments = {"prompt": parameters.prompt} | arguments
    if parameters.n is not None and (parameters.n > 1 or "num_images" in fields):
        arguments[_field(fields, "n", "num_images")] = parameters.n
    size = _size(parameters.size)
    if size is not None:
        arguments[_field(fields, "size", "image_size")] = {"width": size[0], "height": size[1]}
    file_format = _format(parameters, fields)
    return (
        arguments
        | file_format
        | _compression(parameters, fields, file_format)
        | _steps(parameters, fields)
    )


def names_of(parameters: ImageParameters) -> Mapping[str, str]:
    """``NAMES``, and also the number of steps if the quality sets it."""
    return {**NAMES, "num_inference_steps": "quality"} if parameters.quality else NAMES


def _check_fidelity(
    parameters: ImageParameters, fields: EndpointFields, files: Mapping[str, Any]
) -> None:
    """Refuse a high fidelity where it is not in force. Models that read the input image as a
    reference always have it; others begin with its noise, and have a strength."""
    if parameters.input_fidelity != "high":
        return
    if not files:
        raise not_here("input_fidelity", "it is for calls with an input image")
    if "strength" in fields:
        raise not_here("input_fidelity", "set the endpoint's `strength` instead")


def _background(parameters: ImageParameters, fields: EndpointFields) -> dict[str, Any]:
    """Field for the background, where the endpoint has one."""
    if parameters.background in fields.choices("background"):
        return {"background": parameters.background}
    if parameters.background == "transparent" and not _makes_transparency(fields.endpoint):
        app = CUT_OUT[0]
        because = f"{fields.endpoint.id} makes opaque images. Send its image to images.edit with"
        message = f"{because} the model {app}, which removes the background (`darkroom deploy"
        raise not_here("background", f"{message} {APPS[app]}` serves it)")
    return {}


def _makes_transparency(endpoint: Endpoint) -> bool:
    result = declared_result(endpoint)
    return endpoint.id in CUT_OUT or (result is not None and result.type is ResultType.LAYERS)


def _compression(
    parameters: ImageParameters, fields: EndpointFields, file_format: Mapping[str, Any]
) -> dict[str, Any]:
    """Field for the quality of a JPEG or WebP, where the endpoint has one."""
    name = next((field_name for field_name in COMPRESSIONS if field_name in fields), None)
    if parameters.output_compression is None or (
        name is None and parameters.output_compression == 100
    ):
        return {}
    if name is None:
        raise not_here("output_compression", "files are always written at the best quality")
    if parameters.output_compression != 100 and "png" in file_format.values():
        raise not_here("output_compression", "PNG has none: set `output_format` to jpeg or webp")
    return {name: parameters.output_compression}


def _size(size: str | None) -> tuple[int, int] | None:
    """Size in pixels; None means the endpoint's default."""
    if size is None or size == "auto":
        return None
    match = _SIZE.fullmatch(size)
    if match is None:
        raise InvalidInput.of_field("size", "Input should be `auto`, or pixels as in `1024x1024`")
    return int(match[1]), int(match[2])


def _format(parameters: ImageParameters, fields: EndpointFields) -> dict[str, Any]:
    """Field for the output format. The default is PNG, as at OpenAI, because programs name their
    files by it."""
    name = next(
        (field_name for field_name in ("output_format", "format") if field_name in fields), None
    )
    if name is None:
        # The schema `open` names no fields, so the field is set only on request.
        output_format = parameters.output_format
        return (
            {_field(fields, "output_format", "output_format"): output_format}
            if output_format
            else {}
        )
    output_format = parameters.output_format
    format_name = output_format or "png"
    choice = fields.first_choice(name, format_name, SPELLED.get(format_name))
    if output_format is not None and choice is None:
        raise not_here("output_format", f"this endpoint writes {', '.join(fields.choices(name))}")
    return {} if choice is None else {name: choice}


def _steps(parameters: ImageParameters, fields: EndpointFields) -> dict[str, Any]:
    factor = STEPS.get(parameters.quality or "auto")
    if factor is None:
        return {}
    usual = fields.default("num_inference_steps")
    if not isinstance(usual, int):
        if factor == 1.0:
            return {}
        raise not_here("quality", "this endpoint has one quality only")
    if "num_inference_steps" in (parameters.model_extra or {}):
        return {}  # the client set the exact number
    least, most = fields.bounds("num_inference_steps")
    return {"num_inference_steps": round(min(max(usual * factor, least), most))}


def _field(fields: EndpointFields, parameter: str, name: str) -> str:
    if not fields.accepts(name):
        raise not_here(parameter, f"this endpoint has no field `{name}`")
    return name


# Images of an ended request, in OpenAI's format.

KEPT = ("seed", "darkroom_demo")
"""Fields of the output that the response has under their own names."""


class OpenAiImage(TypedDict):
    """Image as base64, as a URL, or both."""

    b64_json: NotRequired[str]
    url: NotRequired[str]


class KeptFields(TypedDict):
    """Fields of the endpoint's output that OpenAI's format does not have."""

    seed: NotRequired[int]
    darkroom_demo: NotRequired[bool]


class EchoedParameters(TypedDict):
    """Parameters that the response repeats."""

    size: NotRequired[str]
    quality: NotRequired[str]
    background: NotRequired[str]
    output_format: NotRequired[str]
    safety_identifier: NotRequired[str]


class OpenAiImages(EchoedParameters, KeptFields):
    """Images of a request."""

    created: int
    data: list[OpenAiImage]


def images_of(request: Request) -> Sequence[Artifact]:
    """Images of a request. ``PipelineFailed``: it made none, so its endpoint is not for images."""
    images = [artifact for artifact in final_outcome(request).artifacts if is_image(artifact)]
    if not images:
        raise PipelineFailed(f"{request.endpoint} ended without an image.")
    return images


def is_image(artifact: Artifact) -> bool:
    return artifact.media_type.startswith("image/")


async def image_answer(
    request: Request, image_request: ImageRequest, files: Files, origin: str, created: int
) -> OpenAiImages:
    """Body of the response."""
    images = images_of(request)

    def url(key: str) -> str:
        return files.access.url(origin, key, request.tenant)

    return {
        "created": created,
        "data": [await _image(image, image_request, files.storage, url) for image in images],
        **_echo_parameters(image_request, images[0]),
        **kept_of(request),
    }


def kept_of(request: Request) -> KeptFields:
    output = final_outcome(request).output or {}
    kept = {name: output[name] for name in KEPT if output.get(name) is not None}
    return cast("KeptFields", kept)


def format_of(artifact: Artifact) -> str:
    return artifact.media_type.removeprefix("image/")


def size_of(artifact: Artifact, image_request: ImageRequest) -> str:
    if artifact.width is None or artifact.height is None:
        return image_request.size
    return f"{artifact.width}x{artifact.height}"


async def _image(
    artifact: Artifact,
    image_request: ImageRequest,
    storage: Storage,
    url: Callable[[str], str],
) -> OpenAiImage:
    image: OpenAiImage = {}
    if "b64_json" in image_request.response_formats:
        image["b64_json"] = await base64_of(storage, artifact.key, artifact.size)
    if "url" in image_request.response_formats:
        image["url"] = url(artifact.key)
    return image


def _echo_parameters(image_request: ImageRequest, image: Artifact) -> EchoedParameters:
    """Parameters that the response repeats. OpenAI reports the chosen values, never "auto"."""
    parameters = {
        **image_request.echoed,
        "size": size_of(image, image_request),
        "output_format": format_of(image),
    }
    echoed = {name: value for name, value in parameters.items() if value != "auto"}
    return cast("EchoedParameters", echoed)
