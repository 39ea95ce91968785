"""Schema of endpoints whose entry declares its inputs, such as those that ``darkroom models add``
derives from a pipeline's call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model
from pydantic_core import PydanticCustomError

from serve_app.catalog.fields.audio_fields import AudioFormat, Seconds
from serve_app.catalog.fields.field_notes import NoEffect, NotSupported
from serve_app.catalog.fields.fields import (
    MAX_PROMPT,
    FileUrl,
    ImageFormat,
    ImageInput,
    LayerFormat,
    Loras,
    PreserveUnmasked,
    SafetyChecker,
    Seed,
    Seeds,
    Size,
    SyncMode,
)
from serve_app.catalog.fields.outputs import (
    IMAGES,
    AudioOutput,
    ImagesOutput,
    MeshOutput,
    Produced,
    TextOutput,
    VideoOutput,
    audio_with_waveform,
    in_format,
    maps_output,
    mesh,
    nothing,
    video_with_poster,
)
from serve_app.catalog.fields.pydantic_schema import WITHIN, PydanticSchema, Shape
from serve_app.catalog.fields.video_fields import (
    MAX_FPS,
    MAX_FRAMES,
    VideoFormat,
    VideoQuality,
    VideoWriteMode,
)
from serve_app.catalog.schema.number_bounds import number_bounds
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import InvalidInput
from serve_app.options.inputs import OPTION, DeclaredInput, Inputs, InputType, declared_inputs
from serve_app.options.results import (
    DEPTH_MAP,
    IMAGE,
    RESULT,
    DeclaredResult,
    ResultType,
    declared_result,
)

PRESERVE, FORMAT = "preserve_unmasked", "output_format"
MAX_IMAGES = 4  # that one request makes
MAX_LAYERS = 10  # of an image, as at fal
MAX_FILES = 10  # of a list
MAX_OBJECTS = 20
MAX_NUMBERS = 1000

_Fields = dict[str, tuple[Any, Any]]

_SEEDED: _Fields = {"seed": (Seed, None), "seeds": (Seeds, None)}
_IMAGES: _Fields = {
    **_SEEDED,
    "output_format": (ImageFormat, "png"),
    "sync_mode": (SyncMode, False),
    "enable_safety_checker": (SafetyChecker, True),
}
_VIDEO: _Fields = {
    **_SEEDED,
    "output_format": (VideoFormat, "mp4"),
    "video_quality": (VideoQuality, "high"),
    "video_write_mode": (VideoWriteMode, "balanced"),
    "sync_mode": (SyncMode, False),
}
_MESH: _Fields = {"seed": (Seed, None), "sync_mode": (SyncMode, False)}
_TEXT_FIELDS: _Fields = {"seed": (Seed, None)}
_AUDIO: _Fields = {**_SEEDED, "output_format": (AudioFormat, "wav"), "sync_mode": (SyncMode, False)}


@dataclass(frozen=True, slots=True)
class Kind:
    """What the endpoints of a family have in common."""

    fields: _Fields  # that every input has
    output: type[BaseModel]
    produced: Produced
    drafts: bool = True  # its pipelines can make them


KINDS = {
    "generic": Kind(_IMAGES, ImagesOutput, IMAGES),
    "video": Kind(_VIDEO, VideoOutput, video_with_poster),
    "audio": Kind(_AUDIO, AudioOutput, audio_with_waveform),
}
"""By family."""


class DeclaredSchema(PydanticSchema):
    """Schema by the endpoint's ``options.inputs``. ``ValueError`` says what is wrong with them."""

    def __init__(self, endpoint: Endpoint) -> None:
        if (kind := KINDS.get(endpoint.family)) is None:
            known = ", ".join(KINDS)
            raise ValueError(f"the schema `declared` is for the families {known}")
        inputs = declared_inputs(endpoint)
        if not inputs:
            raise ValueError(
                f"the schema `declared` needs `options.{OPTION}`, the endpoint's fields"
            )
        if (result := declared_result(endpoint)) is not None:
            kind = _kind_of(result, inputs, endpoint.family)
        standard, produced = kind.fields, kind.produced
        if any(field.type is InputType.MASK for field in inputs.values()):
            standard = {PRESERVE: (PreserveUnmasked, True), **standard}
        if renamed := next((n for n, e in inputs.items() if e.type is InputType.FORMAT), None):
            standard = {name: field for name, field in standard.items() if name != FORMAT}
            produced = in_format(renamed)
        if taken := sorted(inputs.keys() & standard.keys()):
            raise ValueError(f"`options.{OPTION}` has {', '.join(taken)}, which every input has")
        self._alternatives = _alternatives(inputs)
        shape = Shape(_model(inputs, standard), kind.output, produced, kind.drafts)
        super().__init__(shape, endpoint)

    def validate(
        self, body: Mapping[str, Any], origin: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        for name in body.keys() - self.fields:
            several = name.endswith("_urls")
            twin = name[:-1] if several else f"{name}s"
            if name.endswith(("_url", "_urls")) and twin in self.fields and body[name]:
                # A file that is left out would make something else, at the same price.
                form = "one file" if several else "a list of files"
                raise InvalidInput.of_field(name, f"This endpoint has {twin} in its place: {form}")
        checked, warnings = super().validate(body, origin)
        for name, others in self._alternatives.items():
            if not checked.get(name):
                if checked.get(others[0]) is None:
                    message = f"Field required, unless {name} is set"
                    raise InvalidInput.of_field(others[0], message, "missing")
            elif also := next((other for other in others if checked.get(other) is not None), None):
                raise InvalidInput.of_field(also, f"{also} and {name} cannot both be set")
        return checked, warnings


def _alternatives(inputs: Inputs) -> Mapping[str, tuple[str, ...]]:
    """Field → those in whose place it stands. ``ValueError`` names one that is not there, or that
    every input has."""
    alternatives = {name: field.instead_of for name, field in inputs.items() if field.instead_of}
    for name, others in alternatives.items():
        for other in others:
            if other not in inputs or inputs[other].required:
                raise ValueError(
                    f"`instead_of` of {name} names {other}, which is no optional field"
                )
    return alternatives


def _kind_of(result: DeclaredResult, inputs: Inputs, family: str) -> Kind:
    """Kind of the endpoints with this result. ``ValueError``: the entry does not fit it."""
    if family != "generic":
        raise ValueError(f"`options.{RESULT}` is for the family generic, not for {family}")
    if any(field.type in (InputType.FORMAT, InputType.COUNT) for field in inputs.values()):
        raise ValueError(f"with `options.{RESULT}`, no input has the type `format` or `count`")
    layers = [name for name, field in inputs.items() if field.type is InputType.LAYERS]
    if (len(layers) == 1) != (result.type is ResultType.LAYERS):
        raise ValueError(f"the {RESULT} `layers` and one input of the type `layers` go together")
    if layers:
        fields = _IMAGES | {FORMAT: (LayerFormat, "png")}
        return Kind(fields, ImagesOutput, in_format(layers=layers[0]))
    if result.type is ResultType.MESH:
        return Kind(_MESH, MeshOutput, mesh)
    if result.type is ResultType.TEXT:
        return Kind(_TEXT_FIELDS, TextOutput, nothing, drafts=False)
    described = {
        name: _MAPS.get((result.type, name), f"The map `{name}`.") for name in result.files
    }
    lossless = sum(name == DEPTH_MAP for name in result.files)
    produced = in_format(per_image=len(described) - lossless, lossless=lossless)
    return Kind(_IMAGES, maps_output(described), produced)


_EXACT_DEPTH = (
    "The depth in 65,536 levels, as the model says it: a PNG file of 16 bits, from its 0 (black) "
    "to its 1."
)
_MAPS: Mapping[tuple[ResultType, str], str] = {
    (ResultType.DEPTH, IMAGE): "The depth in 256 levels of grey, for people and ControlNets: what "
    "is near is light.",
    (ResultType.DEPTH, DEPTH_MAP): _EXACT_DEPTH,
    (ResultType.IMAGE_AND_DEPTH, IMAGE): "The image.",
    (ResultType.IMAGE_AND_DEPTH, DEPTH_MAP): _EXACT_DEPTH,
    (ResultType.NORMALS, IMAGE): "Normals of the surfaces: red is x, green is y, blue is z, each "
    "from -1 (0) to 1 (255).",
}


class _Input(ImageInput):
    model_config = ConfigDict(title="Input", protected_namespaces=())


def _model(inputs: Inputs, standard: _Fields) -> type[_Input]:
    fields: dict[str, Any] = {
        name: _field(name, field) for name, field in inputs.items()
    } | standard
    return create_model("Input", __base__=_Input, **fields)


def _field(name: str, declared: DeclaredInput) -> tuple[Any, Any]:
    annotation: Any
    if declared.type is InputType.OBJECTS:
        annotation = _objects(name, declared)
    else:
        annotation = _ANNOTATIONS[declared.type](declared)
    if declared.choices:
        annotation = Literal[declared.choices]  # pyrefly: ignore[invalid-literal]
    default: Any = [] if declared.type is InputType.LORAS else declared.default
    if not declared.required and default is None:
        annotation |= None
    if declared.unused:
        annotation = Annotated[annotation, NoEffect(declared.unused, declared.granted)]
    if declared.refused:
        annotation = Annotated[annotation, NotSupported(declared.refused, declared.granted)]
    described = Field(description=declared.about or DESCRIPTIONS.get(name))
    return Annotated[annotation, described], ... if declared.required else default


def _number(declared: DeclaredInput) -> Any:
    least, most = number_bounds(declared)
    return Annotated[float, Field(ge=least, le=most, allow_inf_nan=False)]


def _integer(declared: DeclaredInput) -> Any:
    least, most = number_bounds(declared)
    return Annotated[int, Field(ge=least, le=most)]


def _count_annotation(least: int, most: int) -> Callable[[DeclaredInput], Any]:
    def annotation(declared: DeclaredInput) -> Any:
        from_ = least if declared.least is None else declared.least
        to = most if declared.most is None else declared.most
        return Annotated[int, Field(ge=from_, le=to)]

    return annotation


def _numbers(item: Any) -> Callable[[DeclaredInput], Any]:
    """Annotation of a list of numbers within their bounds."""

    def annotation(declared: DeclaredInput) -> Any:
        least, most = number_bounds(declared)
        number = Annotated[item, Field(ge=least, le=most)]
        numbers = _list_annotation(number, MAX_NUMBERS)(declared)
        return Annotated[numbers, _SCHEDULE] if declared.argument in SCHEDULES else numbers

    return annotation


SCHEDULES = ("timesteps", "sigmas")
"""Arguments that list the solver's steps."""


def _check_schedule(values: list[float]) -> list[float]:
    """Refuse a list without a step for each of its values: solvers raise what names no field."""
    if not values:
        raise PydanticCustomError(
            "sequence_too_short", "Input should have at least 1 item", {"min_length": 1}
        )
    if len({*values}) < len(values):
        raise PydanticCustomError("value_error", "Input should have each value once")
    return values


_SCHEDULE = AfterValidator(_check_schedule)


def _rows(declared: DeclaredInput) -> Any:
    least, most = number_bounds(declared)
    number = Annotated[float, Field(ge=least, le=most, allow_inf_nan=False)]
    row = Annotated[list[number], Field(min_length=declared.columns, max_length=declared.columns)]
    return _list_annotation(row, MAX_OBJECTS)(declared)


def _list_annotation(item: Any, most: int) -> Callable[[DeclaredInput], Any]:
    def annotation(declared: DeclaredInput) -> Any:
        least = int(declared.least or (1 if declared.required else 0))
        bound = int(declared.most or most)
        return Annotated[list[item], Field(min_length=least, max_length=bound, fail_fast=True)]

    return annotation


class _Object(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


def _objects(name: str, declared: DeclaredInput) -> Any:
    """List of objects with the declared fields."""
    fields: dict[str, Any] = {
        inner: _field(inner, field) for inner, field in declared.fields.items()
    }
    title = "".join(part.capitalize() for part in name.removesuffix("s").split("_"))
    model: Any = create_model(title, __base__=_Object, **fields)
    if declared.one_of:
        model = Annotated[model, AfterValidator(_exactly_one(declared.one_of))]
    if declared.parts:
        model = Annotated[model, AfterValidator(_one_part(declared))]
    return _list_annotation(model, MAX_OBJECTS)(declared)


def _exactly_one(fields: tuple[str, ...]) -> Callable[[BaseModel], BaseModel]:
    def check(item: BaseModel) -> BaseModel:
        present = [name for name in fields if getattr(item, name) is not None]
        names = " or ".join(fields)
        if not present:
            context = {"names": names, WITHIN: fields[0]}
            raise PydanticCustomError("missing", "Field required: {names}", context)
        if len(present) > 1:
            context = {"names": names, WITHIN: present[1]}
            raise PydanticCustomError("one_of", "Only one can be set: {names}", context)
        return item

    return check


def _one_part(declared: DeclaredInput) -> Callable[[BaseModel], BaseModel]:
    def check(item: BaseModel) -> BaseModel:
        values = item.model_dump()
        if len(declared.parts_named(values)) == 1:
            return item
        texts = {n: [t for part in declared.parts for t in part[n]] for n in declared.parts[0]}
        wrong = (name for name in texts if values[name] and values[name] not in texts[name])
        field = next(wrong, next(iter(texts)))
        exact = " or ".join(dict.fromkeys(part[field][0] for part in declared.parts))
        context = {"expected": exact, WITHIN: field}
        text = "Input should name a part of this endpoint: {expected}"
        raise PydanticCustomError("one_of", text, context)

    return check


_TEXT = Annotated[str, Field(max_length=MAX_PROMPT)]
_FINITE = Annotated[float, Field(allow_inf_nan=False)]
_ANNOTATIONS: Mapping[InputType, Callable[[DeclaredInput], Any]] = {
    InputType.TEXT: lambda _: _TEXT,
    InputType.INTEGER: _integer,
    InputType.NUMBER: _number,
    InputType.BOOLEAN: lambda _: bool,
    InputType.TEXTS: _list_annotation(_TEXT, MAX_FILES),
    InputType.INTEGERS: _numbers(int),
    InputType.ANY: lambda _: Any,
    InputType.FORMAT: lambda _: ImageFormat,
    InputType.NUMBERS: _numbers(_FINITE),
    InputType.ROWS: _rows,
    InputType.IMAGE: lambda _: FileUrl,
    InputType.IMAGES: _list_annotation(FileUrl, MAX_FILES),
    InputType.MASK: lambda _: FileUrl,
    InputType.VIDEO: lambda _: FileUrl,
    InputType.AUDIO: lambda _: FileUrl,
    InputType.SIZE: lambda _: Size,
    InputType.COUNT: _count_annotation(1, MAX_IMAGES),
    InputType.LAYERS: _count_annotation(1, MAX_LAYERS),
    InputType.FRAMES: _count_annotation(1, MAX_FRAMES),
    InputType.RATE: lambda _: Annotated[float, Field(ge=0.1, le=MAX_FPS, allow_inf_nan=False)],
    InputType.SECONDS: lambda _: Seconds,
    InputType.LORAS: lambda _: Loras,
}
DESCRIPTIONS: Mapping[str, str] = {
    "prompt": "Description of the result.",
    "negative_prompt": "Description of what the result should not show.",
    "image_url": "Input image: an http(s) URL, or a data URI.",
    "image_urls": "Input images: http(s) URLs, or data URIs.",
    "mask_url": "Mask: an image that is white where to redraw, and black elsewhere.",
    "control_image_url": "Image whose structure the result follows, such as edges or depth: an "
    "http(s) URL, or a data URI.",
    "control_image_urls": "Images whose structure the result follows, one for each ControlNet: "
    "http(s) URLs, or data URIs.",
    "ip_adapter_image_urls": "Images to take subject or style from, one for each IP-Adapter; "
    "without them, a request runs as without any.",
    "end_image_url": "Last frame of the video: an http(s) URL, or a data URI.",
    "video_url": "Input video (MP4, WebM, GIF): an http(s) URL, or a data URI.",
    "audio_url": "Input audio: an http(s) URL, or a data URI.",
    "image_size": "A preset's name, or width and height in pixels.",
    "num_images": "Number of images to make.",
    "layers": "Number of layers to make of the image.",
    "num_layers": "Number of layers to make of the image.",
    "num_frames": "Number of frames of the video.",
    "frames_per_second": "Frames per second of the video.",
    "seconds_total": "Duration in seconds.",
    "num_inference_steps": "Number of denoising steps.",
    "guidance_scale": "How closely the result follows the prompt.",
    "strength": "How much of the input is redrawn; 1 redraws all of it.",
    "loras": "LoRAs for the denoiser; their effects add up.",
}
"""Field → its description, unless the entry has its own (``about``)."""
