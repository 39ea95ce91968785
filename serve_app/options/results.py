"""Results of a pipeline other than images, as an entry of the catalogue says (``options.result``).
The ingress builds the endpoint's output from them, and the family ``generic`` its files.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from serve_app.domain.endpoint import Endpoint
from serve_app.options.mistakes import validate

RESULT = "result"
IMAGE = "image"
MODEL_MESH = "model_mesh"
"""Name that fal has for a mesh (``triposr``, ``trellis``)."""
DEPTH_MAP = "depth_map"
"""Name that fal has for a depth map beside other maps (``image-preprocessors/midas``)."""
TEXT = "output"
"""Name that fal has for a text (``any-llm``)."""
FACTS = frozenset({"seed", "seeds", "timings", "drafts"})
"""Fields of an output beside its files."""


class ResultType(StrEnum):
    """What a pipeline makes of an input."""

    LAYERS = "layers"  # of an image, as many as the input says, with alpha
    DEPTH = "depth"  # a map from 0 to 1
    NORMALS = "normals"  # a map of unit vectors
    INTRINSICS = "intrinsics"  # maps of an image's materials or light, which the weights name
    MESH = "mesh"  # with the colours of its vertices, as GLB
    IMAGE_AND_DEPTH = "image_and_depth"  # made together of a prompt
    TEXT = "text"


MAPS = frozenset({ResultType.DEPTH, ResultType.NORMALS, ResultType.INTRINSICS})
"""Results that say something of each pixel of an input."""


class DeclaredResult(BaseModel):
    """Type of the result, and the fields of the output that hold its files, for those that the type
    does not say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: ResultType
    fields: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_fields(self) -> DeclaredResult:
        if (self.type is ResultType.INTRINSICS) != bool(self.fields):
            raise ValueError("set `fields` for intrinsics, and for nothing else")
        for name in self.fields:
            if not name.isidentifier() or name.startswith(("_", "darkroom")) or name in FACTS:
                raise ValueError(f"{name!r} cannot be the name of a field with a map")
        if len({*self.fields}) < len(self.fields):
            raise ValueError("`fields` has a name twice")
        return self

    @property
    def option_value(self) -> Mapping[str, Any]:
        """The option as an entry writes it."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @property
    def files(self) -> tuple[str, ...]:
        """Fields of the output, each with a file; none for layers, which are ``images``, and for a
        text."""
        fixed = {
            ResultType.DEPTH: (IMAGE, DEPTH_MAP),
            ResultType.IMAGE_AND_DEPTH: (IMAGE, DEPTH_MAP),
            ResultType.NORMALS: (IMAGE,),
            ResultType.MESH: (MODEL_MESH,),
        }
        return fixed.get(self.type, self.fields)


def declared_result(endpoint: Endpoint) -> DeclaredResult | None:
    """Result that the endpoint's entry declares. None: images, or what its family makes.
    ``ValueError`` names what is wrong."""
    declaration = endpoint.options.get(RESULT)
    return (
        None if declaration is None else validate(DeclaredResult, declaration, f"options.{RESULT}")
    )
