"""How long a client wants its files kept: fal's header for it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import Headers

from serve_app.domain.errors import FieldProblem, InvalidInput

NAMES = ("X-Fal-Object-Lifecycle", "X-Fal-Object-Lifecycle-Preference")
"""The Python client sends both, with the same content; the JavaScript client one of them."""

OPEN_TO_ALL = "access rules are not kept here: whoever knows the URL of a file may read it"

MOST_S = 100 * 366 * 86400
"""A hundred years; PostgreSQL's calendar goes farther."""


class Rules(BaseModel):
    """Who may read a file."""

    model_config = ConfigDict(extra="forbid")

    default: Literal["allow", "hide", "forbid"] = "allow"
    rules: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])


class Lifecycle(BaseModel):
    """``expiration_duration_seconds``: from when the file is there; None: as the tenant's
    retention."""

    model_config = ConfigDict(extra="forbid")

    expiration_duration_seconds: float | None = Field(default=None, gt=0, le=MOST_S)
    initial_acl: Rules | None = None

    @property
    def restricted(self) -> bool:
        """Whether not everybody is to read it: all that can be had here is that."""
        acl = self.initial_acl
        return acl is not None and (acl.default != "allow" or bool(acl.rules))


def keep_s_of(headers: Headers) -> float | None:
    """Of an upload: seconds from when it is whole to its deletion; None: nothing is asked for.

    ``InvalidInput`` names the header, also for access rules: a file is not taken that others could
    then read against its owner's wish.
    """
    keep_s: float | None = None
    for name in NAMES:
        if (value := headers.get(name)) is None:
            continue
        lifecycle = parsed(name, value)
        if lifecycle.restricted:
            raise _invalid(name, OPEN_TO_ALL, "feature_not_supported")
        keep_s = lifecycle.expiration_duration_seconds
    return keep_s


def parsed(name: str, value: str) -> Lifecycle:
    """``InvalidInput`` names the header."""
    try:
        return Lifecycle.model_validate_json(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the header"
        raise _invalid(name, f"{where}: {first['msg']}", first["type"]) from None


def _invalid(name: str, what: str, type_: str) -> InvalidInput:
    return InvalidInput(f"{name}: {what}.", (FieldProblem(("header", name), what, type_),))
