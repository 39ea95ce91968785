"""How long a client wants its file kept: fal's header for it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import Headers

from serve_app.domain.errors import FieldProblem, InvalidInput

NAMES = ("X-Fal-Object-Lifecycle", "X-Fal-Object-Lifecycle-Preference")
"""The Python client sends both, with the same content; the JavaScript client the first."""

MOST_S = 100 * 366 * 86400
"""A hundred years; PostgreSQL's calendar goes farther."""


class _Rules(BaseModel):
    """Who may read it: here, whoever knows its URL. So all that can be asked for is that."""

    model_config = ConfigDict(extra="forbid")

    default: Literal["allow"] = "allow"
    rules: list[Any] = Field(default_factory=list[Any], max_length=0)


class _Lifecycle(BaseModel):
    model_config = ConfigDict(extra="forbid")

    expiration_duration_seconds: float | None = Field(default=None, gt=0, le=MOST_S)
    initial_acl: _Rules | None = None


def keep_s_of(headers: Headers) -> float | None:
    """Seconds from when it is whole to its deletion; None: nothing is asked for.

    ``InvalidInput`` names the header, also for access rules, which are not kept here: a file is not
    taken that others could then read against its owner's wish.
    """
    keep_s: float | None = None
    for name in NAMES:
        if (value := headers.get(name)) is not None:
            keep_s = _parsed(name, value).expiration_duration_seconds
    return keep_s


def _parsed(name: str, value: str) -> _Lifecycle:
    try:
        return _Lifecycle.model_validate_json(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["loc"][:1] == ("initial_acl",):
            what = "access rules are not kept here: whoever knows the URL of a file may read it"
        else:
            what = f"{where or 'the header'}: {first['msg']}"
        problem = FieldProblem(("header", name), what, first["type"])
        raise InvalidInput(f"{name}: {what}.", (problem,)) from None
