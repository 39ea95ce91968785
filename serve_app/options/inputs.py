"""Inputs that an entry of the catalogue declares for itself (``options.inputs``): fields of a
request and the pipeline's arguments that take them. The ingress builds the endpoint's schema from
them, and replicas the call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve_app.domain.endpoint import Endpoint
from serve_app.options.mistakes import validate

OPTION = "inputs"
STEPS = "num_inference_steps"
SETTING = "."
"""Mark between a component and its setting, in the place of an argument."""
ADAPTER_SCALE = "ip_adapter.scale"
"""Place of the scale of the image for an IP-Adapter, or of those for several, which each request
has for itself."""
CONTROL_SCALE = "controlnet_conditioning_scale"
"""Argument that says how much a ControlNet counts, or each of several."""
SCALES = frozenset({ADAPTER_SCALE, CONTROL_SCALE})
"""Arguments that leave a part out where they are 0."""
CONTROL_MODE = "control_mode"
"""Argument with the kind of a control image, or of each of several."""
ADAPTER_IMAGE = "ip_adapter_image"
ADAPTER_IMAGES = frozenset({ADAPTER_IMAGE, f"negative_{ADAPTER_IMAGE}"})
"""Arguments that take images for an IP-Adapter."""
MESSAGES = "messages"
"""Argument with a conversation, in place of the prompt and of an image that belongs to it."""
DECLARED = "declared"
"""Name of the schema whose fields these are."""


class InputType(StrEnum):
    """What the value of a field is."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    TEXTS = "texts"  # a list
    INTEGERS = "integers"
    ANY = "any"
    NUMBERS = "numbers"
    ROWS = "rows"  # a list of lists of `columns` numbers, such as boxes
    # Files, which requests name by their URLs.
    IMAGE = "image"
    IMAGES = "images"  # a list
    MASK = "mask"
    VIDEO = "video"
    AUDIO = "audio"
    # What the family translates: the pipeline gets it as other arguments, or in other units.
    SIZE = "size"  # width and height in pixels
    COUNT = "count"  # images of one request
    LAYERS = "layers"  # images that one call makes of another, passed on as it is
    FRAMES = "frames"
    RATE = "rate"  # frames per second
    SECONDS = "seconds"
    FORMAT = "format"  # of the files
    LORAS = "loras"
    # Objects with fields of their own, such as images with a place in time.
    OBJECTS = "objects"  # a list


WITH_CHOICES = frozenset({InputType.TEXT, InputType.INTEGER, InputType.FORMAT})
LISTED_NUMBERS = frozenset({InputType.INTEGERS, InputType.NUMBERS, InputType.ROWS})
IMAGE_TYPES = frozenset({InputType.IMAGE, InputType.IMAGES})
FILES = IMAGE_TYPES | {InputType.MASK, InputType.VIDEO, InputType.AUDIO}
TRANSLATED = frozenset(
    {
        InputType.SIZE,
        InputType.COUNT,
        InputType.FRAMES,
        InputType.RATE,
        InputType.SECONDS,
        InputType.FORMAT,
        InputType.LORAS,
    }
)
USUAL_NAMES: Mapping[InputType, str] = {
    InputType.MASK: "mask_url",
    InputType.SIZE: "image_size",
    InputType.COUNT: "num_images",
    InputType.FRAMES: "num_frames",
    InputType.RATE: "frames_per_second",
    InputType.SECONDS: "seconds_total",
    InputType.FORMAT: "output_format",
}
"""Names by which families read what they translate."""


class DeclaredInput(BaseModel):
    """One field of an endpoint's input."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: InputType
    argument: str = ""  # that takes the value; empty: the one named as the field. With a dot, a
    # setting of a component of a modular pipeline, as `guider.guidance_scale`.
    required: bool = False
    default: Any = None  # None: the field may be left out, and the pipeline's own default holds
    least: float | None = None  # of a number, or of the length of a list
    most: float | None = None
    item_least: float | None = None  # of each number of a list
    item_most: float | None = None
    columns: int = Field(default=0, ge=0, le=1000)  # numbers in each of the rows
    choices: tuple[str | int, ...] = ()  # of a text, an integer, or a format
    by_family: bool = False  # the family reads the field by its name, as `resolution` of a video
    unused: str = ""  # why the field has no effect
    refused: str = ""  # why values other than those `granted` are refused
    granted: tuple[Any, ...] = ()
    as_is: bool | None = None  # a file that keeps its own size; otherwise it gets that of the
    # output. None: the images of a list keep theirs
    fields: Mapping[str, DeclaredInput] = Field(default_factory=dict[str, "DeclaredInput"])
    # of each of the objects; their arguments are those of the class that the pipeline takes
    one_of: tuple[str, ...] = ()  # fields of which each object has exactly one
    parts: tuple[Mapping[str, tuple[str, ...]], ...] = ()  # of which each object chooses one: for
    # each, fields of the object and the texts that name it there. The arguments of the other fields
    # are fields of the endpoint, with a value for each part
    instead_of: tuple[str, ...] = ()  # fields that are left out if this one is set; without it, the
    # first of them is needed
    about: str = Field(default="", max_length=300)

    @model_validator(mode="after")
    def _one_way(self) -> DeclaredInput:
        if self.required and self.default is not None:
            raise ValueError("set `required` or `default`: a field with a default may be left out")
        if self.choices and self.type not in WITH_CHOICES:
            raise ValueError(f"`choices` belong to a text or an integer, not to {self.type}")
        if self.unused and self.refused:
            raise ValueError("set `unused` or `refused`")
        if {self.item_least, self.item_most} != {None} and self.type not in LISTED_NUMBERS:
            raise ValueError(
                f"`item_least` and `item_most` belong to numbers or integers, not to {self.type}"
            )
        if bool(self.columns) != (self.type is InputType.ROWS):
            raise ValueError("`columns` belong to rows, and rows need them")
        return self

    @model_validator(mode="after")
    def _of_objects(self) -> DeclaredInput:
        if bool(self.fields) != (self.type is InputType.OBJECTS):
            raise ValueError("`fields` belong to objects, and objects need them")
        for name, field in self.fields.items():
            check_name(name)
            if field.type in TRANSLATED | {InputType.OBJECTS, InputType.IMAGES}:
                raise ValueError(
                    f"`fields.{name}` is of the type {field.type}, which no object has"
                )
        for name in self.one_of:
            if name not in self.fields or self.fields[name].required:
                raise ValueError(f"`one_of` names {name}, which is none of the optional `fields`")
        return self

    @property
    def is_tuple(self) -> bool:
        """True if a list has a fixed length: the pipeline takes it as a tuple."""
        is_fixed = self.least is not None and self.least == self.most
        return self.type is InputType.INTEGERS and is_fixed and self.argument != CONTROL_MODE

    @property
    def keeps_size(self) -> bool:
        """True for files that are not brought into the size of the output."""
        return self.type is InputType.IMAGES if self.as_is is None else self.as_is

    @property
    def usual_name(self) -> str | None:
        """Name by which families read what they translate; None for other values."""
        by_argument = {STEPS: STEPS, "image": "image_url" if self.type is InputType.IMAGE else None}
        return by_argument.get(self.argument) or USUAL_NAMES.get(self.type)

    @property
    def is_file(self) -> bool:
        return self.type in FILES

    @property
    def is_adapters(self) -> bool:
        """True for an image that an IP-Adapter looks at, and that the output is not about."""
        return self.argument in ADAPTER_IMAGES

    @property
    def is_passed(self) -> bool:
        """True if the argument takes the value as it is."""
        elsewhere = self.by_family or self.unused or self.refused or self.fields
        return not (elsewhere or self.is_file or self.type in TRANSLATED)

    def parts_named(self, item: Mapping[str, Any]) -> Sequence[int]:
        """Numbers of the parts that an object may mean."""
        return [
            number
            for number, names in enumerate(self.parts)
            if all(not item.get(name) or item[name] in texts for name, texts in names.items())
        ]

    def gives(self, field: str) -> bool:
        """True for a field of objects whose value is that of the chosen part."""
        return bool(self.parts) and field not in self.parts[0]

    @property
    def attributes(self) -> Mapping[str, DeclaredInput]:
        """Fields of objects that their class takes. Others have no effect, or only one value."""
        return {name: f for name, f in self.fields.items() if f.is_file or f.is_passed}


Inputs = Mapping[str, DeclaredInput]
"""Field of a request → declaration."""


def declared_inputs(endpoint: Endpoint) -> Inputs:
    """The inputs that the endpoint's entry declares; empty if its schema is another one.
    ``ValueError`` names what is wrong."""
    declarations = endpoint.options.get(OPTION)
    if declarations is None:
        return {}
    if not isinstance(declarations, Mapping):
        raise ValueError(f"`options.{OPTION}` must be a mapping from fields to what they are")  # noqa: TRY004
    inputs: dict[str, DeclaredInput] = {}
    for name, value in cast("Mapping[str, Any]", declarations).items():
        check_name(name)
        declared = validate(DeclaredInput, value, f"options.{OPTION}.{name}")
        inputs[name] = _with_argument(name, declared)
    for name, declared in inputs.items():
        targets = {field.argument for n, field in declared.attributes.items() if declared.gives(n)}
        if missing := sorted(targets - inputs.keys()):
            raise ValueError(f"`options.{OPTION}.{name}` gives {missing[0]}, which is no field")
    return inputs


def check_name(name: str) -> None:
    """Raise ``ValueError`` if no field can have the name."""
    if not name.isidentifier() or name.startswith("_"):
        raise ValueError(f"`options.{OPTION}` has {name!r}, which cannot be the name of a field")


def _with_argument(name: str, declared: DeclaredInput) -> DeclaredInput:
    """``declared`` with the names of arguments that it leaves out: those of the fields."""
    inner = {field: _with_argument(field, member) for field, member in declared.fields.items()}
    return declared.model_copy(update={"argument": declared.argument or name, "fields": inner})
