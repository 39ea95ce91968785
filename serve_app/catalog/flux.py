"""The input of Flux text-to-image, as fal's clients send it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from serve_app.catalog.problems import invalid_input
from serve_app.domain.artifact import MEDIA_TYPES
from serve_app.domain.endpoint import Endpoint
from serve_app.domain.errors import FieldProblem, InvalidInput

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


class ImageSize(BaseModel):
    model_config = ConfigDict(extra="ignore")

    width: int = Field(default=512, ge=LEAST_SIDE, le=MOST_SIDE)
    height: int = Field(default=512, ge=LEAST_SIDE, le=MOST_SIDE)


def _preset_to_size(value: object) -> object:
    """A preset's name becomes its size, so that families see sizes only."""
    if isinstance(value, str):
        if value not in PRESETS:
            names = ", ".join(f"'{name}'" for name in PRESETS)
            raise PydanticCustomError(
                "one_of",
                "Input should be one of {names}, or an object with width and height",
                {"names": names, "expected": list(PRESETS)},
            )
        width, height = PRESETS[value]
        return {"width": width, "height": height}
    return value


class FluxTextToImageInput(BaseModel):
    """Defaults and bounds that differ between endpoints come from the catalogue."""

    model_config = ConfigDict(extra="ignore", validate_default=True, title="FluxTextToImageInput")

    prompt: str = Field(max_length=20_000, description="What the picture shows.")
    image_size: Annotated[ImageSize, BeforeValidator(_preset_to_size)] = Field(
        default_factory=lambda: ImageSize(width=1024, height=768),
        description="A preset's name, or width and height in pixels.",
    )
    num_inference_steps: int = Field(default=28, ge=1, description="Denoising steps.")
    guidance_scale: float = Field(
        default=3.5, allow_inf_nan=False, description="How closely the prompt is followed."
    )
    seed: int | None = Field(
        default=None, ge=LEAST_SEED, le=MOST_SEED, description="Same seed, same picture."
    )
    num_images: int = Field(default=1, ge=1, le=4, description="How many pictures to make.")
    output_format: Literal["jpeg", "png", "webp"] = Field(
        default="jpeg", description="File format of the pictures."
    )
    sync_mode: bool = Field(default=False, description="Return the pictures inside the answer.")
    enable_safety_checker: bool = Field(default=True, description="Accepted; has no effect here.")
    acceleration: Literal["none", "regular", "high"] = Field(
        default="none", description="Accepted; has no effect here."
    )


class FluxTextToImage:
    """Checks Flux inputs under one endpoint's defaults and bounds."""

    def __init__(self, endpoint: Endpoint) -> None:
        bounds = dict(endpoint.bounds)
        self._most_megapixels = bounds.pop("megapixels", (0.0, float("inf")))[1]
        self._model = _narrowed(FluxTextToImageInput, endpoint.defaults, bounds)
        self._known = frozenset(self._model.model_fields)
        try:
            self._model.model_validate({"prompt": ""})
        except ValidationError as error:
            raise ValueError(f"a default is not allowed: {invalid_input(error)}") from None

    def validate(self, body: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        try:
            checked = self._model.model_validate(body).model_dump()
        except ValidationError as error:
            raise invalid_input(error) from None
        self._check_megapixels(checked["image_size"])
        return checked, self._warnings(body, checked)

    def media_types(self, input: Mapping[str, Any]) -> tuple[str, ...]:
        return (MEDIA_TYPES[input["output_format"]],) * input["num_images"]

    def json_schema(self) -> dict[str, Any]:
        return self._model.model_json_schema()

    def _check_megapixels(self, size: Mapping[str, int]) -> None:
        megapixels = size["width"] * size["height"] / 1e6
        if megapixels > self._most_megapixels:
            message = (
                f"{size['width']}×{size['height']} is {megapixels:.1f} megapixels; this "
                f"installation allows {self._most_megapixels:g} here (`bounds` in its catalogue)"
            )
            problem = FieldProblem(
                loc=("body", "image_size"),
                message=message,
                type="image_too_large",
                context={"le": self._most_megapixels},
                value=dict(size),
            )
            raise InvalidInput(f"image_size: {message}", (problem,))

    def _warnings(self, body: Mapping[str, Any], input: Mapping[str, Any]) -> tuple[str, ...]:
        found: list[str] = []
        unknown = sorted(str(name) for name in body if name not in self._known)
        if unknown:
            found.append(f"Ignored, because this endpoint has no such field: {', '.join(unknown)}.")
        if body.get("enable_safety_checker") is True:
            found.append("enable_safety_checker has no effect: there is no safety checker here.")
        if input["acceleration"] != "none":
            found.append("acceleration has no effect: every request runs at full speed here.")
        return tuple(found)


def _narrowed(
    model: type[BaseModel],
    defaults: Mapping[str, Any],
    bounds: Mapping[str, tuple[float, float]],
) -> type[BaseModel]:
    """``model`` with other defaults and tighter bounds; ``ValueError`` for a field it lacks."""
    unknown = sorted((defaults.keys() | bounds.keys()) - model.model_fields.keys())
    if unknown:
        raise ValueError(f"the schema has no field {', '.join(unknown)}")
    fields: dict[str, Any] = {}
    for name in sorted(defaults.keys() | bounds.keys()):
        old = model.model_fields[name]
        fields[name] = (_annotation(old), _field(old, name, defaults, bounds))
    return create_model(model.__name__, __base__=model, **fields)


def _annotation(field: FieldInfo) -> Any:
    """The type with the constraints it had, to which new ones are added."""
    annotation: Any = field.annotation
    for constraint in field.metadata:
        annotation = Annotated[annotation, constraint]
    return annotation


def _field(
    old: FieldInfo,
    name: str,
    defaults: Mapping[str, Any],
    bounds: Mapping[str, tuple[float, float]],
) -> Any:
    given: dict[str, Any] = {"description": old.description}
    if name in bounds:
        given["ge"], given["le"] = bounds[name]
    if name in defaults:
        given["default"] = defaults[name]
    elif old.default_factory is not None:
        given["default_factory"] = old.default_factory
    elif not old.is_required():
        given["default"] = old.default
    return Field(**given)
