"""Fields that the inputs of several families share, as fal's clients send them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from serve_app.catalog.effects import NoEffect, NotHere
from serve_app.domain.adapter_path import (
    FORMS,
    MOST_ADAPTERS,
    MOST_SCALE,
    parse_adapter_path,
)

PRESETS: Mapping[str, tuple[int, int]] = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}
"""Name → width, height in pixels."""

LEAST_SIDE, MOST_SIDE = 64, 14142
LEAST_SEED, MOST_SEED = -(2**63), 2**64 - 1  # what torch's generators take
MOST_PROMPT = 20_000  # characters

_WEB = re.compile(r"https?://[^\s/?#]+\S*", re.I)
_INLINE = re.compile(r"data:[^,]*,", re.I)


class ImageSize(BaseModel):
    """Pixels."""

    model_config = ConfigDict(extra="ignore")

    width: int = Field(default=512, ge=LEAST_SIDE, le=MOST_SIDE, description="Pixels.")
    height: int = Field(default=512, ge=LEAST_SIDE, le=MOST_SIDE, description="Pixels.")


def _adapter_path(value: str) -> str:
    try:
        parse_adapter_path(value)
    except ValueError as error:
        raise PydanticCustomError("adapter_path", "{why}", {"why": str(error)}) from None
    return value


class LoraWeight(BaseModel):
    """An adapter and how strongly it counts."""

    model_config = ConfigDict(extra="ignore")

    path: Annotated[str, AfterValidator(_adapter_path)] = Field(
        description=f"Where its weights are: {FORMS}."
    )
    scale: float = Field(
        default=1.0,
        ge=-MOST_SCALE,
        le=MOST_SCALE,
        allow_inf_nan=False,
        description="How strongly it counts.",
    )
    force: Annotated[
        bool,
        NoEffect("an adapter either fits the model or is refused", granted=(False,)),
        Field(description="Load it even if it seems not to fit."),
    ] = False


class Embedding(BaseModel):
    """A textual inversion."""

    model_config = ConfigDict(extra="ignore")

    path: str = Field(description="Where its weights are.")
    tokens: list[str] = Field(default_factory=list, description="What stands for it in a prompt.")


class ImageInput(BaseModel):
    """What every input here has in common."""

    # A preset's name is a default like any other: it is checked, and becomes a size.
    model_config = ConfigDict(extra="ignore", validate_default=True)


def preset_to_size(value: object) -> object:
    """A preset's name becomes its size, so that families see sizes only."""
    if isinstance(value, str):
        if value not in PRESETS:
            raise one_of(PRESETS, " or an object with width and height")
        width, height = PRESETS[value]
        return {"width": width, "height": height}
    return value


def one_of(names: Iterable[str], more: str = "") -> PydanticCustomError:
    """The complaint about a value that is none of ``names``."""
    known = list(names)
    shown = ", ".join(f"'{name}'" for name in known)
    return PydanticCustomError(
        "one_of",
        "Input should be one of {names}{more}",
        {"names": shown, "more": more and f",{more}", "expected": known},
    )


def _reachable(value: str) -> str:
    if not (_WEB.fullmatch(value) or _INLINE.match(value)):
        raise PydanticCustomError(
            "url_scheme", "Input should be an http(s) URL, or a data URI with the file in it"
        )
    return value


PresetName = Literal[
    "square_hd", "square", "portrait_4_3", "portrait_16_9", "landscape_4_3", "landscape_16_9"
]
Size = Annotated[
    ImageSize, BeforeValidator(preset_to_size, json_schema_input_type=ImageSize | PresetName)
]
Prompt = Annotated[str, Field(max_length=MOST_PROMPT, description="What the picture shows.")]
NegativePrompt = Annotated[
    str, Field(max_length=MOST_PROMPT, description="What the picture should not show.")
]
Steps = Annotated[int, Field(ge=1, description="Denoising steps.")]
Guidance = Annotated[
    float, Field(allow_inf_nan=False, description="How closely the prompt is followed.")
]
Strength = Annotated[
    float,
    Field(ge=0.01, le=1, description="How much of the given picture is redrawn; 1 is all of it."),
]
Seed = Annotated[
    int | None, Field(ge=LEAST_SEED, le=MOST_SEED, description="Same seed, same picture.")
]
FileUrl = Annotated[str, AfterValidator(_reachable)]
"""Of what a replica can fetch, or has already."""
PictureUrl = Annotated[
    FileUrl, Field(description="The picture to begin with: an http(s) URL, or a data URI.")
]
MaskUrl = Annotated[
    FileUrl,
    Field(description="Where to redraw: a picture that is white there and black elsewhere."),
]
SyncMode = Annotated[bool, Field(description="Return the pictures inside the answer.")]
PictureFormat = Annotated[
    Literal["jpeg", "png", "webp"], Field(description="File format of the pictures.")
]
Acceleration = Annotated[
    Literal["none", "regular", "high"],
    NoEffect("every request runs at full speed here", granted=("none",)),
    Field(description="Quicker, at the cost of quality."),
]
SafetyChecker = Annotated[
    bool,
    NoEffect("there is no safety checker here", granted=(False,)),
    Field(description="Look for indecent pictures."),
]
SafetyCheckerVersion = Annotated[
    Literal["v1", "v2"],
    NoEffect("there is no safety checker here"),
    Field(description="Which safety checker."),
]
ExpandPrompt = Annotated[
    bool,
    NoEffect("prompts are used as they are sent", granted=(False,)),
    Field(description="Have the prompt rewritten."),
]
OwnRequestId = Annotated[
    str,
    NoEffect("each request gets an id of Darkroom's own", granted=("",)),
    Field(description="An id of the client's."),
]
Loras = Annotated[
    list[LoraWeight],
    Field(max_length=MOST_ADAPTERS, description="Adapters on the denoiser; they add up."),
]
Embeddings = Annotated[
    list[Embedding],
    NotHere("textual inversions are not served"),
    Field(description="Textual inversions."),
]


def number_of_pictures(most: int) -> Any:
    """The field ``num_images``."""
    return Field(default=1, ge=1, le=most, description="How many pictures to make.")


def preset(name: PresetName) -> Any:
    """The default of a ``Size``."""
    return Field(default=name, description="A preset's name, or width and height in pixels.")
