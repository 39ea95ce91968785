"""Input fields that several families share, as fal's clients send them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from annotated_types import Le
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

from serve_app.catalog.fields.field_notes import NoEffect, NotSupported
from serve_app.domain.addresses import is_file_url
from serve_app.domain.errors import FieldProblem, InvalidInput
from serve_app.domain.lora import FORMS, MAX_LORAS, MAX_SCALE, parse_lora_path
from serve_app.domain.media.image_size import AUTO, MAX_SIDE, MIN_SIDE, PRESETS

MIN_SEED, MAX_SEED = -(2**63), 2**64 - 1  # range of torch's generators
MAX_PROMPT = 20_000  # characters


class ImageSize(BaseModel):
    """Width and height in pixels."""

    model_config = ConfigDict(extra="ignore")

    width: int = Field(default=512, ge=MIN_SIDE, le=MAX_SIDE, description="Width in pixels.")
    height: int = Field(default=512, ge=MIN_SIDE, le=MAX_SIDE, description="Height in pixels.")


def _lora_path(value: str) -> str:
    try:
        parse_lora_path(value)
    except ValueError as error:
        raise PydanticCustomError("adapter_path", "{why}", {"why": str(error)}) from None
    return value


class LoraWeight(BaseModel):
    """A LoRA and its scale."""

    model_config = ConfigDict(extra="ignore")

    path: Annotated[str, AfterValidator(_lora_path)] = Field(
        description=f"Location of its weights: {FORMS}."
    )
    scale: float = Field(
        default=1.0,
        ge=-MAX_SCALE,
        le=MAX_SCALE,
        allow_inf_nan=False,
        description="Strength of its effect.",
    )
    force: Annotated[
        bool,
        NoEffect("a LoRA either fits the model or is refused", granted=(False,)),
        Field(description="Load it even if it does not seem to fit."),
    ] = False


class Embedding(BaseModel):
    """A textual inversion."""

    model_config = ConfigDict(extra="ignore")

    path: str = Field(description="Location of its weights.")
    tokens: list[str] = Field(default_factory=list, description="Tokens that use it in a prompt.")


class ImageInput(BaseModel):
    """Configuration that all image inputs share."""

    # Defaults are validated, so a preset's name becomes a size.
    model_config = ConfigDict(extra="ignore", validate_default=True)


def preset_to_size(value: object) -> object:
    """Replace a preset's name with its size, so that families only see sizes."""
    if isinstance(value, str):
        if value not in PRESETS:
            raise one_of(PRESETS, " or an object with width and height")
        width, height = PRESETS[value]
        return {"width": width, "height": height}
    return value


def one_of(names: Iterable[str], more: str = "") -> PydanticCustomError:
    """Validation error for a value that is not one of ``names``."""
    known = list(names)
    shown = ", ".join(f"'{name}'" for name in known)
    return PydanticCustomError(
        "one_of",
        "Input should be one of {names}{more}",
        {"names": shown, "more": more and f",{more}", "expected": known},
    )


def _reachable(value: str) -> str:
    if not is_file_url(value):
        raise PydanticCustomError(
            "url_scheme", "Input should be an http(s) URL, or a data URI that contains the file"
        )
    return value


PresetName = Literal[
    "square_hd", "square", "portrait_4_3", "portrait_16_9", "landscape_4_3", "landscape_16_9"
]
Size = Annotated[
    ImageSize, BeforeValidator(preset_to_size, json_schema_input_type=ImageSize | PresetName)
]


def _size_or_auto(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    return value if value == AUTO else validate(preset_to_size(value))


SizeOrAuto = Annotated[
    SerializeAsAny[ImageSize],  # or `auto` as a text
    WrapValidator(_size_or_auto, json_schema_input_type=ImageSize | Literal[PresetName, "auto"]),
]
"""Size of an endpoint that takes an image. ``AUTO`` is found by the replica, which reads it."""
Prompt = Annotated[str, Field(max_length=MAX_PROMPT, description="Description of the image.")]
NegativePrompt = Annotated[
    str, Field(max_length=MAX_PROMPT, description="Description of what the image should not show.")
]
Steps = Annotated[int, Field(ge=1, description="Number of denoising steps.")]
Guidance = Annotated[
    float, Field(allow_inf_nan=False, description="How closely the image follows the prompt.")
]
Strength = Annotated[
    float,
    Field(ge=0.01, le=1, description="How much of the input is redrawn; 1 redraws all of it."),
]
Seed = Annotated[int | None, Field(ge=MIN_SEED, le=MAX_SEED, description="Same seed, same result.")]
FileUrl = Annotated[str, AfterValidator(_reachable)]
"""URL that a replica can fetch, or a data URI that contains the file."""
ImageUrl = Annotated[FileUrl, Field(description="Input image: an http(s) URL, or a data URI.")]
MaskUrl = Annotated[
    FileUrl,
    Field(description="Mask: an image that is white where to redraw, and black elsewhere."),
]
PreserveUnmasked = Annotated[
    bool,
    Field(
        description="Keep what lies outside the mask exactly as it is in the input image. "
        "Otherwise the model changes it slightly."
    ),
]
SyncMode = Annotated[bool, Field(description="Return the files inside the response.")]
ImageFormat = Annotated[
    Literal["jpeg", "png", "webp"], Field(description="File format of the images.")
]
LayerFormat = Annotated[
    Literal["png", "webp"], Field(description="File format of the layers, with transparency.")
]
Acceleration = Annotated[
    Literal["none", "regular", "high"],
    NoEffect("this endpoint has no step cache", granted=("none",)),
    Field(description="Generate faster, with less quality."),
]
SafetyChecker = Annotated[
    bool,
    NoEffect("the operator decides what is checked", granted=(False,)),
    Field(description="Check the images for unsafe content."),
]
SafetyCheckerVersion = Annotated[
    Literal["v1", "v2"],
    NoEffect("the operator decides what is checked"),
    Field(description="Version of the safety checker."),
]
ExpandPrompt = Annotated[
    bool,
    NoEffect("prompts are used as they are sent", granted=(False,)),
    Field(description="Rewrite the prompt before it is used."),
]
OwnRequestId = Annotated[
    str,
    NoEffect("Darkroom generates the id of each request", granted=("",)),
    Field(description="Request id that the client chooses."),
]
Loras = Annotated[
    list[LoraWeight],
    Field(max_length=MAX_LORAS, description="LoRAs for the denoiser; their effects add up."),
]
Embeddings = Annotated[
    list[Embedding],
    NotSupported("textual inversions are not supported"),
    Field(description="Textual inversions.", fail_fast=True),
]


def number_of_images(most: int) -> Any:
    """Field ``num_images``."""
    return Field(default=1, ge=1, le=most, description="Number of images to make.")


def preset(name: PresetName) -> Any:
    """Default of a ``Size``."""
    return Field(default=name, description="A preset's name, or width and height in pixels.")


# Lists of seeds: several outputs from one request, a feature that fal's inputs lack.

MAX_OUTPUTS = 4
"""Limit for inputs without a count of their own."""

STEPS = ("num_inference_steps", "steps", "number_of_steps")  # whichever an input has
COUNT, SEED, SEEDS = "num_images", "seed", "seeds"

Seeds = Annotated[
    list[Annotated[int, Field(ge=MIN_SEED, le=MAX_SEED)]] | None,
    Field(
        min_length=1,
        fail_fast=True,  # the list may be as long as a body
        description="One output for each seed, the same as a request with this `seed` gives.",
    ),
]


def most_outputs(model: type[BaseModel]) -> int:
    """Maximum number of outputs that an input of ``model`` may ask for."""
    count = model.model_fields.get(COUNT)
    bounds = [bound.le for bound in count.metadata if isinstance(bound, Le)] if count else []
    return min([int(str(limit)) for limit in bounds], default=MAX_OUTPUTS)


def apply_seeds(body: Mapping[str, Any], checked: dict[str, Any], most: int) -> dict[str, Any]:
    """The valid input ``checked``, with as many outputs as it has seeds. ``InvalidInput`` if
    ``body``, from which it was validated, contradicts that."""
    seeds = checked.get(SEEDS)
    if seeds is None:
        checked.pop(SEEDS, None)  # rarely set, and inputs are shown to users
        return checked
    if body.get(SEED) is not None:
        raise _seeds_problem(SEED, "Input should be left out if `seeds` is set", body[SEED])
    if len(seeds) > most:
        raise _seeds_problem(SEEDS, f"Input should have at most {most} seeds here", seeds)
    requested = body.get(COUNT)
    if COUNT in checked and requested is not None and checked[COUNT] != len(seeds):
        message = f"Input has {len(seeds)} seeds, but `{COUNT}` is {checked[COUNT]}"
        raise _seeds_problem(SEEDS, message, seeds)
    return checked | ({COUNT: len(seeds)} if COUNT in checked else {})


def _seeds_problem(field: str, message: str, value: Any) -> InvalidInput:
    problem = FieldProblem(("body", field), message, "value_error", None, value)
    return InvalidInput(f"{field}: {message}", (problem,))
